"""Where a setting's value comes from, and what is said of one that is wrong."""

from pathlib import Path

import pytest

from threadkeep.cli import parser
from threadkeep.sandbox.limits import Limits
from threadkeep.settings import ROWS, WrongSettings, as_markdown, flag, read_settings, variable

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"


def problems_of(arguments: dict[str, str], environ: dict[str, str], folder: Path, file: str | None = None) -> list[str]:
    if file is not None:
        (folder / "threadkeep.toml").write_text(file, encoding="utf-8")
    with pytest.raises(WrongSettings) as caught:
        read_settings({"data_dir": str(folder), **arguments}, environ, folder=folder)
    return caught.value.problems


def test_a_flag_wins_over_a_variable_that_over_the_file_and_that_over_the_default(tmp_path: Path) -> None:
    (tmp_path / "threadkeep.toml").write_text('host = "127.0.0.3"\nport = 3\ngrace_seconds = 3\n', encoding="utf-8")
    environ = {"THREADKEEP_HOST": "127.0.0.2", "THREADKEEP_PORT": "2"}

    settings = read_settings({"host": "127.0.0.1"}, environ, folder=tmp_path)

    assert (settings.host, settings.port, settings.grace_seconds) == ("127.0.0.1", 2, 3)
    assert settings.lease_seconds == 10.0
    assert settings.given["port"] == "THREADKEEP_PORT"


def test_without_any_setting_all_have_their_defaults(tmp_path: Path) -> None:
    settings = read_settings({}, {"HOME": str(tmp_path)}, folder=tmp_path)

    assert (settings.host, settings.port, settings.database_url, settings.upstreams) == ("127.0.0.1", 8400, None, ())
    assert settings.data_dir.name == "threadkeep"


@pytest.mark.parametrize(
    ("arguments", "environ", "file", "problem"),
    [
        (
            {"port": "abc"},
            {},
            None,
            "--port: 'abc' is not a whole number from 0 to 65535. Example: --port 8400",
        ),
        (
            {},
            {"THREADKEEP_PORT": "70000"},
            None,
            "THREADKEEP_PORT: '70000' is not a whole number from 0 to 65535. Example: THREADKEEP_PORT=8400",
        ),
        (
            {},
            {},
            "port = 70000",
            "{folder}/threadkeep.toml: port: '70000' is not a whole number from 0 to 65535. Example: port = 8400",
        ),
        (
            {},
            {},
            'log_level = "loud"',
            (
                "{folder}/threadkeep.toml: log_level: 'loud' is not one of debug, info, warning, error. "
                'Example: log_level = "debug"'
            ),
        ),
        (
            {"upstream_url": "localhost:11434"},
            {},
            None,
            (
                "--upstream-url: 'localhost:11434' is not an http:// or https:// URL. "
                "Example: --upstream-url http://127.0.0.1:11434/v1"
            ),
        ),
        (
            {},
            {"THREADKEEP_LEASE_SECONDS": "nan"},
            None,
            (
                "THREADKEEP_LEASE_SECONDS: 'nan' is not a number of seconds from 1 to 3600. "
                "Example: THREADKEEP_LEASE_SECONDS=10"
            ),
        ),
    ],
)
def test_a_wrong_value_is_named_as_it_was_given_and_a_right_one_shown(
    tmp_path: Path, arguments: dict[str, str], environ: dict[str, str], file: str | None, problem: str
) -> None:
    assert problems_of(arguments, environ, tmp_path, file) == [problem.format(folder=tmp_path)]


@pytest.mark.parametrize(
    ("arguments", "environ", "file", "is_on"),
    [
        (["--strict-beta"], {}, "", True),
        (["--strict-beta", "off"], {"THREADKEEP_STRICT_BETA": "on"}, "", False),
        ([], {"THREADKEEP_STRICT_BETA": "TRUE"}, "", True),
        ([], {}, "strict_beta = true", True),
        ([], {}, "strict_beta = false", False),
        ([], {}, 'strict_beta = "on"', True),
        ([], {}, "", False),
    ],
)
def test_a_switch_is_on_where_it_is_named(
    tmp_path: Path, arguments: list[str], environ: dict[str, str], file: str, is_on: bool
) -> None:
    (tmp_path / "threadkeep.toml").write_text(file, encoding="utf-8")
    given = vars(parser().parse_args(["serve", *arguments]))

    settings = read_settings({**given, "data_dir": str(tmp_path)}, environ, folder=tmp_path)

    assert settings.strict_beta is is_on
    assert settings.shown("strict_beta") == ("on" if is_on else "off")


def test_a_switch_is_nothing_between_on_and_off(tmp_path: Path) -> None:
    assert problems_of({"strict_beta": "maybe"}, {}, tmp_path) == [
        "--strict-beta: 'maybe' is neither on nor off. Example: --strict-beta on"
    ]


def test_all_wrong_settings_are_listed_at_once(tmp_path: Path) -> None:
    problems = problems_of({"port": "x"}, {"THREADKEEP_LOG_LEVEL": "y"}, tmp_path, 'grace_seconds = "z"')

    assert [problem.split(":")[0] for problem in problems] == [
        "--port",
        "THREADKEEP_LOG_LEVEL",
        f"{tmp_path}/threadkeep.toml",
    ]


def test_a_misspelt_variable_stops_the_start_and_the_right_name_is_told(tmp_path: Path) -> None:
    assert problems_of({}, {"THREADKEEP_DATABSE_URL": "postgresql://x"}, tmp_path) == [
        "THREADKEEP_DATABSE_URL: there is no such setting. Did you mean THREADKEEP_DATABASE_URL?"
    ]


def test_a_misspelt_key_in_the_file_stops_the_start_and_the_right_name_is_told(tmp_path: Path) -> None:
    assert problems_of({}, {}, tmp_path, "prot = 1") == [
        f"{tmp_path}/threadkeep.toml: there is no setting 'prot'. Did you mean 'port'?"
    ]


def test_a_variable_of_another_version_is_told_and_ignored(tmp_path: Path) -> None:
    settings = read_settings({}, {"THREADKEEP_TELEPATHY": "x"}, folder=tmp_path)

    assert settings.warnings == ("THREADKEEP_TELEPATHY is not a setting of this version and is ignored.",)


def test_an_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    assert read_settings({}, {"THREADKEEP_PORT": ""}, folder=tmp_path).port == 8400


def test_a_file_that_is_asked_for_must_be_there(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"

    assert problems_of({"config": str(missing)}, {}, tmp_path) == [
        f"--config: {missing} cannot be read: No such file or directory"
    ]


def test_a_file_that_is_no_toml_is_named_with_the_place(tmp_path: Path) -> None:
    assert "threadkeep.toml: Invalid value (at line 1" in problems_of({}, {}, tmp_path, "port = = 1")[0]


def test_the_file_in_the_data_folder_counts_when_the_current_folder_has_none(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "threadkeep.toml").write_text("port = 9\n", encoding="utf-8")

    assert read_settings({"data_dir": str(data)}, {}, folder=tmp_path).port == 9


def test_a_folder_named_in_the_file_lies_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "threadkeep.toml").write_text('data_dir = "here"\n', encoding="utf-8")

    assert read_settings({}, {}, folder=tmp_path).data_dir == tmp_path / "here"


def test_keys_and_passwords_are_in_no_text_of_the_settings(tmp_path: Path) -> None:
    settings = read_settings(
        {
            "database_url": "postgresql://me:hunter22%21@db/x?sslpassword=hunter44",
            "upstream_url": "https://u:hunter33@host/v1",
        },
        {"THREADKEEP_UPSTREAM_API_KEY": "sk-secret"},
        folder=tmp_path,
    )

    text = f"{settings!r} {settings.upstreams!r} {settings.shown('database_url')} {settings.shown('upstream_api_key')}"
    assert "hunter" not in text
    assert "sk-secret" not in text
    assert set(settings.secrets()) == {"hunter22%21", "hunter22!", "hunter33", "hunter44", "sk-secret"}


def test_a_wrong_key_is_not_repeated_in_the_complaint(tmp_path: Path) -> None:
    assert "secret" not in problems_of({}, {"THREADKEEP_UPSTREAM_API_KEY": "secret\0"}, tmp_path)[0]


UPSTREAMS = """
upstream_idle_timeout_seconds = 7
upstream_url = "http://rest.example/v1"

[[upstream]]
name = "openai"
url = "https://api.openai.com/v1"
api_key_env = "OPENAI_API_KEY"
models = ["gpt-*", "o3"]

[[upstream]]
name = "local"
url = "http://127.0.0.1:11434/v1"
models = ["llama*"]
idle_timeout_seconds = 2
context_window = 4096
rename = { "llama" = "llama3.3:70b" }
"""


def test_upstreams_come_in_the_files_order_and_the_general_one_last(tmp_path: Path) -> None:
    (tmp_path / "threadkeep.toml").write_text(UPSTREAMS, encoding="utf-8")

    openai, local, rest = read_settings({}, {"OPENAI_API_KEY": "sk-1234"}, folder=tmp_path).upstreams

    assert (openai.name, openai.api_key, openai.models, openai.idle_timeout_s) == (
        "openai",
        "sk-1234",
        ("gpt-*", "o3"),
        7.0,
    )
    assert (local.idle_timeout_s, local.context_window, local.name_there("llama")) == (2.0, 4096, "llama3.3:70b")
    assert (rest.url, rest.models) == ("http://rest.example/v1", ("*",))


def test_what_is_wrong_in_an_upstream_is_named_with_the_upstream(tmp_path: Path) -> None:
    first = '[[upstream]]\nname = "a"\nurl = "ftp://x"\nmodel = ["*"]\napi_key_env = "NO_SUCH_KEY"\n'
    file = f'{first}[[upstream]]\nname = "b"\n'

    where = f"{tmp_path}/threadkeep.toml: [[upstream]]"
    assert problems_of({}, {}, tmp_path, file) == [
        f"{where} a: api_key_env: the variable NO_SUCH_KEY is not set",
        f"{where} a: url: 'ftp://x' is not an http:// or https:// URL. Example: url = \"http://127.0.0.1:11434/v1\"",
        f"{where} a: there is no key 'model'. Did you mean 'models'?",
        f'{where} b: url is missing. Example: url = "http://127.0.0.1:11434/v1"',
    ]


@pytest.mark.parametrize("name", ROWS)
def test_the_example_of_each_setting_is_a_right_value(name: str) -> None:
    ROWS[name].kind.parse(ROWS[name].example)


def test_every_bound_of_the_code_interpreter_can_be_set_and_keeps_its_default(tmp_path: Path) -> None:
    assert {row.limit for row in ROWS.values() if row.limit} == set(Limits.__struct_fields__)
    assert read_settings({"data_dir": str(tmp_path)}, {}, folder=tmp_path).limits == Limits()

    given = read_settings({"data_dir": str(tmp_path), "code_timeout_seconds": "7"}, {}, folder=tmp_path)
    assert given.limits == Limits(call_s=7.0)


@pytest.mark.parametrize(
    ("given", "packages"),
    [
        ("default", ("default",)),
        ("default, polars ,polars", ("default", "polars")),
        ("numpy>=2,<3,pandas[excel]==3.0.1", ("numpy>=2,<3", "pandas[excel]==3.0.1")),
    ],
)
def test_packages_are_names_perhaps_with_versions(given: str, packages: tuple[str, ...], tmp_path: Path) -> None:
    settings = read_settings({"data_dir": str(tmp_path), "sandbox_packages": given}, {}, folder=tmp_path)

    assert settings.sandbox_packages == packages


@pytest.mark.parametrize("given", ["--index-url", "git+https://host.example/x", "../wheel.whl", "a b", "a @ file:///b"])
def test_what_is_no_name_of_a_package_is_refused(given: str, tmp_path: Path) -> None:
    with pytest.raises(WrongSettings, match="neither a package's name"):
        read_settings({"data_dir": str(tmp_path), "sandbox_packages": given}, {}, folder=tmp_path)


def test_the_environment_for_code_is_in_the_data_folder_unless_it_is_named(tmp_path: Path) -> None:
    settings = read_settings({"data_dir": str(tmp_path)}, {}, folder=tmp_path)
    named = read_settings({"data_dir": str(tmp_path), "sandbox_environment": "/x"}, {}, folder=tmp_path)

    assert (settings.environment_place, named.environment_place) == (tmp_path / "sandbox", Path("/x"))


def test_names_that_scripts_rely_on_are_there() -> None:
    relied_on = ["host", "port", "data_dir", "database_url", "upstream_url", "upstream_api_key", "lease_seconds"]
    assert set(relied_on) | {"run_expires_seconds", "code_interpreter"} <= set(ROWS)
    assert flag("run_expires_seconds") == "--run-expires-seconds"
    assert variable("run_expires_seconds") == "THREADKEEP_RUN_EXPIRES_SECONDS"


def test_the_reference_page_is_what_the_table_says() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == as_markdown(), (
        "the table of settings changed: threadkeep settings --markdown > docs/reference/settings.md"
    )
