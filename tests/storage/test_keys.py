from tests.support.databases import execute
from threadkeep.storage import DEFAULT_PROJECT_ID, Transaction, hash_of


def test_key_opens_its_project(tx: Transaction) -> None:
    key_id, key = tx.keys.create("acme")
    assert tx.keys.find(hash_of(key)) == (key_id, tx.projects.ensure("acme"))
    assert tx.keys.find(hash_of(key + "x")) is None


def test_key_itself_is_stored_nowhere(tx: Transaction) -> None:
    _, key = tx.keys.create("acme")
    [listed] = tx.keys.list()
    assert key not in str(listed)
    assert listed.hint == key[-4:]
    assert key not in str(execute(tx, "SELECT * FROM keys"))


def test_keys_are_listed_with_their_projects(tx: Transaction) -> None:
    first, _ = tx.keys.create("acme")
    second, _ = tx.keys.create("default")
    listed = tx.keys.list()
    assert [(key.id, key.project_name) for key in listed] == [(first, "acme"), (second, "default")]
    assert listed[1].project_id == DEFAULT_PROJECT_ID
    assert [key.revoked_at for key in listed] == [None, None]


def test_revoked_key_opens_nothing(tx: Transaction) -> None:
    key_id, key = tx.keys.create("acme")
    assert tx.keys.revoke(key_id)
    assert not tx.keys.revoke(key_id)
    assert not tx.keys.revoke("key_unknown")
    assert tx.keys.find(hash_of(key)) is None
    assert tx.keys.list()[0].revoked_at is not None


def test_server_that_had_a_key_never_again_goes_without(tx: Transaction) -> None:
    assert not tx.keys.any()
    key_id, _ = tx.keys.create("acme")
    tx.keys.revoke(key_id)
    assert tx.keys.any()


def test_project_is_made_once(tx: Transaction) -> None:
    assert tx.projects.ensure("default") == DEFAULT_PROJECT_ID
    assert tx.projects.ensure("acme") == tx.projects.ensure("acme")
    assert tx.projects.ensure("acme") != tx.projects.ensure("Acme")
