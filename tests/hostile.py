"""Words that a label, an experiment, a path or a host's name may hold in a store that others write to, too."""

PWNED = "window.__pwned=1"
"""What the scripts among them would do."""

HOSTILE = [
    f"</script><script>{PWNED}</script>",
    f"<img src=x onerror={PWNED}> &lt;b&gt;",
    f"\"'><svg/onload={PWNED}>",
    f"<a href='javascript:{PWNED}'>javascript:{PWNED}</a>",
    "</style><b></title><!--",
    "{{ 7 * 7 }} {% raw %} %{x} %(x)s ${x} $x^2$",
    "=HYPERLINK(\"http://example.invalid\") =cmd|' /C calc'!A0",
    "[red]rich[/red] | pipe `code` \x1b[31m\x07\x9b31m\r\nline\ttab",
    "\u202eright to left\u2066 \u2028 \ufeff\u200b",
    "$(touch planted) `touch planted` ; touch planted & 'q' \"r\" \\ # $HOME %j * ~",
    "-rf",
    "../../etc/planted",
    "]]> <?x ?> &amp; \ufffe",
    "long " * 400,
]

PRINTABLE = [text for text in HOSTILE if text.isprintable()]
"""Those that fit on one line."""
