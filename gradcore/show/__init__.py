"""The faces of a report: terminal text, HTML page and matplotlib figure, all telling one story."""
