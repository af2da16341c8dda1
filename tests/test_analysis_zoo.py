"""Rates over a quarter of the zoo (`python tests/zoo.py` judges all of it)."""

import pytest

import zoo

pytest.importorskip("sklearn")


def test_verdicts_false_alarms_and_causes():
    judged = zoo.judge_all(zoo.models(quick=True))
    rates = zoo.rates(judged)
    assert rates["problems"] >= 30 and rates["healthy"] >= 30
    assert rates["detected"] >= 0.99, zoo.table(judged)
    assert rates["false_alarms"] <= 0.01, zoo.table(judged)
    assert rates["causes"] >= 0.95, zoo.table(judged)


def test_the_zoo_is_large_enough_for_its_rates():
    verdicts = [model.verdict for model in zoo.models()]
    assert verdicts.count("healthy") >= 150
    assert len(verdicts) - verdicts.count("healthy") >= 150
