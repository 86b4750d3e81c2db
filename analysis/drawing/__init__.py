"""Pages and figures. They show what was computed; `page` and `history_page` write HTML, `figures` PNG and SVG.

`plots` is what all plots are made of, `charts` compares configurations, `one_run` and `telemetry` show a single run.
"""
