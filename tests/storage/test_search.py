import pytest
from msgspec.structs import replace

from tests.support.objects import a_message, a_thread
from threadkeep.contract.messages import RefusalContent, Text, TextContent
from threadkeep.contract.paging import ListQuery
from threadkeep.contract.threads import Thread
from threadkeep.storage import Transaction
from threadkeep.storage.sqlite import SqliteConnection
from threadkeep.storage.statements import Connection
from threadkeep.storage.words import words_of


def found(tx: Transaction, words: str) -> list[str]:
    return [thread.id for thread in tx.threads.list(ListQuery(), {}, words).data]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello, world!", "hello"),
        ("Hello, world!", "WORLD hello"),
        ("Straße nach Österreich", "STRASSE österreich"),
        ("call get_weather now", "get_weather"),
        ("order 4711-b", "4711-B"),
        ("我想买一辆自行车", "自行车"),
        ("東京タワーに行きたい", "タワー"),
        ("ผมชอบกินข้าว", "ข้าว"),
        ("Я люблю чай", "ЧАЙ"),
        ("مرحبا بالعالم", "مرحبا"),
        ("कृपया मदद करें", "मदद"),
        ("ﬁne ligatures", "fine"),
        ("x" * 5000, "x" * 5000),
    ],
)
def test_message_is_found_by_its_words(tx: Transaction, thread: Thread, text: str, words: str) -> None:
    tx.messages.insert(a_message(thread.id, text))
    assert found(tx, words) == [thread.id]


@pytest.mark.parametrize(
    "words",
    [
        "hell",
        "hello moon",
        "",
        "  ",
        "*",
        '"',
        "-",
        "hell*",
        "hello NOT world moon",
        "NEAR(hello world)",
        "words:hello",
    ],
)
def test_what_was_not_said_is_not_found(tx: Transaction, thread: Thread, words: str) -> None:
    tx.messages.insert(a_message(thread.id, "Hello, world!"))
    assert found(tx, words) == []


@pytest.mark.parametrize(
    "words", ["'", '"hello" OR', "hello AND", "(hello", "hello:", "^hello", "{hello}", "\x00hello", "%", "_"]
)
def test_search_syntax_in_the_words_means_nothing(tx: Transaction, thread: Thread, words: str) -> None:
    tx.messages.insert(a_message(thread.id, "hello and or"))
    expected = [thread.id] if words_of(words) not in ("", "_") else []
    assert found(tx, words) == expected


def test_all_words_must_be_in_one_message(tx: Transaction, thread: Thread) -> None:
    tx.messages.insert(a_message(thread.id, "salt"))
    tx.messages.insert(a_message(thread.id, "pepper"))
    assert found(tx, "salt pepper") == []
    tx.messages.insert(a_message(thread.id, "pepper and salt"))
    assert found(tx, "salt pepper") == [thread.id]


def test_message_in_progress_is_found_when_it_has_ended(tx: Transaction, thread: Thread) -> None:
    message = a_message(thread.id, "half a sent", status="in_progress")
    tx.messages.insert(message)
    assert found(tx, "half") == []
    tx.messages.replace(replace(message, content=[TextContent(text=Text(value="half a sentence more"))]))
    assert found(tx, "half") == []
    tx.messages.replace(
        replace(message, status="completed", content=[TextContent(text=Text(value="a whole sentence"))])
    )
    assert found(tx, "sentence") == [thread.id]
    assert found(tx, "half") == []


def test_deleted_and_changed_messages_are_no_longer_found(tx: Transaction, thread: Thread) -> None:
    gone, changed = a_message(thread.id, "gone alike"), a_message(thread.id, "before alike")
    tx.messages.insert(gone)
    tx.messages.insert(changed)
    tx.messages.delete(thread.id, gone.id)
    tx.messages.replace(replace(changed, content=[TextContent(text=Text(value="after"))]))
    assert found(tx, "gone") == found(tx, "before") == found(tx, "alike") == []
    assert found(tx, "after") == [thread.id]


def test_message_without_text_is_found_by_nothing_and_harms_nothing(tx: Transaction, thread: Thread) -> None:
    message = a_message(thread.id, content=[RefusalContent(refusal="no")])
    tx.messages.insert(message)
    tx.messages.replace(message)
    tx.messages.delete(thread.id, message.id)
    assert found(tx, "no") == []


def test_longest_message_of_distinct_words_is_stored(tx: Transaction, thread: Thread) -> None:
    text = " ".join(f"{number:x}" for number in range(50_000))[:256_000]
    tx.messages.insert(a_message(thread.id, text))
    assert found(tx, "1 ff") == [thread.id]


def test_metadata_and_words_are_asked_for_together(tx: Transaction) -> None:
    mine, wrong_topic, wrong_words = (
        a_thread(user="ada", topic="tea"),
        a_thread(user="ada"),
        a_thread(user="ada", topic="tea"),
    )
    for thread, text in ((mine, "black tea"), (wrong_topic, "black tea"), (wrong_words, "green tea")):
        tx.threads.insert(thread)
        tx.messages.insert(a_message(thread.id, text))
    page = tx.threads.list(ListQuery(), {"user": "ada", "topic": "tea"}, "black")
    assert page.data == [mine]


def test_metadata_is_compared_whole_and_exactly(tx: Transaction) -> None:
    thread = a_thread(user="Ada", empty="")
    tx.threads.insert(thread)
    assert tx.threads.list(ListQuery(), {"user": "Ada"}, None).data == [thread]
    assert tx.threads.list(ListQuery(), {"empty": ""}, None).data == [thread]
    assert tx.threads.list(ListQuery(), {"user": "ada"}, None).data == []
    assert tx.threads.list(ListQuery(), {"user": "Ad"}, None).data == []
    assert tx.threads.list(ListQuery(), {"Ada": "user"}, None).data == []
    assert tx.threads.list(ListQuery(), {str(number): "x" for number in range(17)}, None).data == []


def test_changed_metadata_is_what_is_found(tx: Transaction) -> None:
    thread = a_thread(stage="new", kept="yes")
    tx.threads.insert(thread)
    tx.threads.replace(replace(thread, metadata={"stage": "old", "kept": "yes"}))
    assert tx.threads.list(ListQuery(), {"stage": "new"}, None).data == []
    assert [found.id for found in tx.threads.list(ListQuery(), {"stage": "old", "kept": "yes"}, None).data] == [
        thread.id
    ]


def test_greatest_metadata_of_the_contract_fits_the_index(tx: Transaction) -> None:
    thread = a_thread(**{"𐍈" * 64: "𐍈" * 512})
    tx.threads.insert(thread)
    assert tx.threads.list(ListQuery(), thread.metadata, None).data == [thread]


def test_found_threads_are_paged_newest_first(tx: Transaction) -> None:
    threads = [a_thread(user="ada") for _ in range(5)]
    for thread in threads:
        tx.threads.insert(thread)
        tx.messages.insert(a_message(thread.id, "tea"))
    first = tx.threads.list(ListQuery(limit=2), {"user": "ada"}, "tea")
    assert first.data == [threads[4], threads[3]]
    assert first.has_more
    rest = tx.threads.list(ListQuery(limit=3, after=first.last_id), {"user": "ada"}, "tea")
    assert rest.data == [threads[2], threads[1], threads[0]]
    assert not rest.has_more


def test_sqlite_search_index_agrees_with_the_messages(tx: Transaction, thread: Thread, connection: Connection) -> None:
    if not isinstance(connection, SqliteConnection):
        return
    message = a_message(thread.id, "one two", status="in_progress")
    tx.messages.insert(message)
    tx.messages.replace(replace(message, status="completed"))
    tx.messages.insert(a_message(thread.id, "three"))
    tx.messages.delete(thread.id, message.id)
    connection.raw.execute("INSERT INTO message_words (message_words, rank) VALUES ('integrity-check', 1)")
