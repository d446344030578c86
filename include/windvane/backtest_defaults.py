"""What the command line of the backtest must know before it imports the heavy rest."""

from datetime import UTC, datetime, timedelta

POLICIES = ("windvane", "never", "every-window", "weekly", "drift-psi", "oracle")
ROW_TIME = "(row)"
"""Name of the column of time that stands in where a config names none: the order of the rows."""

ROW_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
"""Moment of the first row where the order of the rows is the time; each row is a second after the one before."""

Span = int | timedelta
"""A number of rows, or a length of time."""
