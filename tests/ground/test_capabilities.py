"""What a run says of the tests that the machine could not run."""

import pytest

TWO_THAT_LACK_SOMETHING = """
    import pytest
    from tests.capabilities import missing

    @pytest.mark.parametrize("n", [1, 2])
    def test_that_needs_something(n):
        missing("flux capacitor", fix="apt-get install flux (as root)")

    def test_that_needs_nothing():
        pass

    @pytest.mark.xfail(strict=True)
    def test_that_is_known_to_fail():
        raise AssertionError
"""

PLUGINS = ("-p", "tests.capabilities", "-p", "no:asyncio")


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.delenv("THREADKEEP_TEST_STRICT", raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    return pytester


def test_missing_things_are_named_once_each_right_before_the_summary_line(run: pytest.Pytester) -> None:
    run.makepyfile(TWO_THAT_LACK_SOMETHING)

    result = run.runpytest_inprocess(*PLUGINS, "-rs")

    result.assert_outcomes(passed=1, skipped=2, xfailed=1)
    assert "what this machine could not run" in result.outlines[-3]
    assert result.outlines[-2] == "no flux capacitor: 2 tests. To have it: apt-get install flux (as root)"
    assert "1 passed" in result.outlines[-1]


def test_nothing_is_said_when_nothing_is_missing(run: pytest.Pytester) -> None:
    run.makepyfile("def test_a(): pass")

    result = run.runpytest_inprocess(*PLUGINS)

    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*could not run*")


def test_strictly_a_missing_thing_fails_and_is_still_named(
    run: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THREADKEEP_TEST_STRICT", "1")
    run.makepyfile(TWO_THAT_LACK_SOMETHING)

    result = run.runpytest_inprocess(*PLUGINS)

    result.assert_outcomes(passed=1, failed=2, xfailed=1)
    assert result.outlines[-2] == "no flux capacitor: 2 tests. To have it: apt-get install flux (as root)"


def test_strictly_a_whole_file_may_not_be_skipped_either(run: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THREADKEEP_TEST_STRICT", "1")
    run.makepyfile("import pytest\npytest.skip('not today', allow_module_level=True)\ndef test_a(): pass")

    result = run.runpytest_inprocess(*PLUGINS)

    assert result.ret != 0
    result.assert_outcomes(errors=1)
