"""The fault matrix: what goes wrong (`inside`, `outside`), under which strategy (`cases`), and what came of it."""
