"""Names as a stranger could choose them."""

HOSTILE = "red <img src=x onerror=alert(1)> & \"'"
