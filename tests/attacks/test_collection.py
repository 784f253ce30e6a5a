"""Files on their way out: names and kinds of all sorts, and code that changes them while the server collects."""

import textwrap

import pytest

from tests.attacks.conftest import DISK_BYTES, FILES, MIB, Attacker

CANARY = "root:x:0:0"


@pytest.fixture(autouse=True)
def empty_folder(attacker: Attacker) -> None:
    attacker.begin_anew()


def newest(attacker: Attacker) -> list[dict[str, object]]:
    return attacker.http.get("/files?order=desc&limit=40").json()["data"]


def contents(attacker: Attacker, before: set[object]) -> dict[str, bytes]:
    """The files that came since, by name."""
    fresh = [file for file in newest(attacker) if file["id"] not in before]
    return {str(file["filename"]): attacker.http.get(f"/files/{file['id']}/content").content for file in fresh}


def run(attacker: Attacker, code: str) -> tuple[str, dict[str, bytes]]:
    before = {file["id"] for file in newest(attacker)}
    ran = attacker.run(code)
    assert ran.status == "completed"
    return ran.logs, contents(attacker, before)


def test_only_what_is_a_file_of_the_folder_comes_out(attacker: Attacker) -> None:
    code = """
        import os, socket
        os.symlink('/etc/passwd', 'link.txt'); os.symlink('/', 'root'); os.symlink('/proc/1', 'process')
        os.symlink('/proc/self/environ', 'environ'); os.symlink('.', 'itself'); os.mkfifo('fifo.txt')
        os.mkdir('folder'); os.symlink('/etc', 'folder/etc'); os.symlink('../../../etc/passwd', 'folder/up.txt')
        socket.socket(socket.AF_UNIX).bind('socket.txt')
        os.link('/tmp/none', 'x') if os.path.exists('/tmp/none') else None
        open('file.txt', 'w').write('mine')
        os.link('file.txt', 'second.txt')
    """
    _, files = run(attacker, code)
    assert files == {"file.txt": b"mine"}


def test_names_of_all_kinds_are_names_and_nothing_else(attacker: Attacker) -> None:
    code = r"""
        import os
        names = ['a\r\nX-Evil: 1', 'b\nc', 'q"; filename="x', 'n' * 255, '\x01\x7f\u202e.txt', 'ü.txt', ' ', '-rf']
        for name in names: open(name, 'w').write('x')
        for name in (b'\xff\xfe', b'\xed\xa0\x80'): open(name, 'w').close()
    """
    _, files = run(attacker, code)
    assert len(files) >= 8
    for file in newest(attacker)[: len(files)]:
        answer = attacker.http.get(f"/files/{file['id']}/content")
        assert answer.status_code == 200
        assert answer.content == b"x"
        assert "x-evil" not in answer.headers
        disposition = answer.headers.get("content-disposition", "")
        assert not any(ord(each) < 32 for each in disposition)


def test_many_files_deep_folders_and_long_paths_are_bounded(attacker: Attacker) -> None:
    code = """
        import os
        for n in range(3_000): open(f'{n:05}', 'w').write(str(n))
        os.makedirs('/'.join(['d' * 200] * 15)); os.chdir('/'.join(['d' * 200] * 15))
        open('deep', 'w').write('x')
        for _ in range(200): os.mkdir('e'); os.chdir('e')
        os.chdir('/mnt/data')
    """
    logs, files = run(attacker, code)
    assert len(files) == FILES
    assert "Not kept" in logs
    assert len(logs) < 20_000


def test_files_without_content_cost_no_more_than_the_disk(attacker: Attacker) -> None:
    code = """
        import os
        for n in range(40):
            with open(f'sparse{n}', 'wb') as file: file.truncate(16 * 2**20)
        with open('beyond', 'wb') as file:
            try: file.truncate(2**40)
            except OSError: pass
    """
    _, files = run(attacker, code)
    assert sum(map(len, files.values())) <= DISK_BYTES
    assert "beyond" not in files or len(files["beyond"]) <= 16 * MIB


RACES = {
    "a file and a link to the host": """
        os.symlink('/etc/passwd', '/tmp/link'); open('/tmp/file', 'w').write('mine' * 10_000)
        while True:
            for source in ('/tmp/link', '/tmp/file'):
                os.unlink('a.txt') if os.path.lexists('a.txt') else None
                if source == '/tmp/link': os.symlink('/etc/passwd', 'a.txt')
                else: open('a.txt', 'w').write('mine' * 10_000)
    """,
    "a folder and a link to a folder": """
        os.makedirs('d', exist_ok=True); open('d/passwd', 'w').write('mine')
        os.symlink('/etc', 'other')
        while True:
            os.rename('d', 'aside'); os.rename('other', 'd'); os.rename('d', 'other'); os.rename('aside', 'd')
    """,
    "a file that grows": """
        with open('growing.txt', 'ab', buffering=0) as file:
            while True:
                try: file.write(b'mine' * 1_000)
                except OSError: file.truncate(0)
    """,
    "a file that shrinks": """
        while True:
            open('shrinking.txt', 'wb').write(b'mine' * 500_000)
            os.truncate('shrinking.txt', 4)
    """,
    "a file and a fifo": """
        while True:
            open('a.txt', 'w').write('mine')
            os.unlink('a.txt'); os.mkfifo('a.txt'); os.unlink('a.txt')
    """,
    "names that come and go": """
        n = 0
        while True:
            n += 1
            open(f'{n % 500}.txt', 'w').write('mine'); os.rename(f'{n % 500}.txt', f'{(n * 7) % 500}.md')
    """,
    "rights that come and go": """
        open('a.txt', 'w').write('mine')
        while True:
            for mode in (0, 0o644, 0o200): os.chmod('a.txt', mode)
            for mode in (0o000, 0o777, 0o311):
                try: os.chmod('/mnt/data', mode)
                except OSError: pass
    """,
}


@pytest.mark.parametrize("what", RACES)
def test_code_that_changes_files_while_they_are_collected_gets_only_its_own(attacker: Attacker, what: str) -> None:
    race = RACES[what].strip("\n")
    begun = f"""
        import os, time
        if os.fork() == 0:
            try:
                os.chdir('/mnt/data')
                exec({textwrap.dedent(race)!r})
            except BaseException as error: open('/tmp/ended', 'w').write(repr(error))
            finally: os._exit(0)
        time.sleep(0.1)
    """
    _, files = run(attacker, begun)
    found = [files]
    for _ in range(3):
        _, files = run(attacker, "print('collect')")
        found.append(files)
    ended = attacker.run("import os; print(os.path.exists('/tmp/ended') and open('/tmp/ended').read())").logs
    for each in found:
        for name, content in each.items():
            assert set(content) <= set(b"mine\0collect"), (name, content[:100])
            assert CANARY.encode() not in content
    # It went on all the time.
    assert ended.startswith("False\n"), ended
    attacker.run("import os\nos.chmod('/mnt/data', 0o777) if os.stat('/mnt/data').st_uid == os.getuid() else None")


def test_a_folder_that_is_closed_to_everybody_closes_nothing_else(attacker: Attacker) -> None:
    attacker.run("import os\ntry: os.chmod('/mnt/data', 0)\nexcept OSError: pass")
    assert attacker.run("print(40 + 2)").logs == "42\n"
    attacker.run("import os\ntry: os.chmod('/mnt/data', 0o777)\nexcept OSError: pass")
