"""Measure, predict, judge, explain and cure: the analysis of a net's gradients."""
