"""Captions of contact sheets in letters that their font lacks are announced once, in a line."""

import logging

import pytest

from orchestrator.reporting.contact_sheet import report_missing_characters


def test_missing_characters_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        report_missing_characters(["a cat", "café", "Красный круг"])
        assert not caplog.messages
        report_missing_characters(["貓", "紅色的貓 and 貓", "猫" * 3])
    (line,) = caplog.messages
    assert "lacks 5 characters of the captions" in line and line.endswith(": 猫的紅色貓")


def test_a_long_list_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        report_missing_characters([chr(code) for code in range(0x4E00, 0x5E00)])
    assert caplog.messages[0].endswith("...") and len(caplog.messages[0]) < 250
