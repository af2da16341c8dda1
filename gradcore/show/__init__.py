"""The forms of a report: terminal text, HTML page and matplotlib figure, all with the same content."""
