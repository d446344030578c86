"""What the command line of the backtest must know before it imports the heavy rest."""

from datetime import timedelta

POLICIES = ("windvane", "never", "every-window", "weekly", "drift-psi", "oracle")
ROW_TIME = "(row)"
"""Name of the column of time that stands in where a config names none: the order of the rows."""

Span = int | timedelta
"""A number of rows, or a length of time."""
