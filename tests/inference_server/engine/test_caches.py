"""Where a worker keeps what it makes once."""

from pathlib import Path

from easel_server.engine.loading import find_cache_directory


def test_each_kind_has_a_folder_of_its_own_and_the_next_process_finds_it_again(tmp_path: Path) -> None:
    environment = {"EASEL_CACHE_DIR": str(tmp_path / "not there yet")}
    made = find_cache_directory("compiled", environment)
    assert made is not None
    (made / "kernel").write_text("code")
    again = find_cache_directory("compiled", environment)
    assert again is not None
    assert (again / "kernel").read_text() == "code"
    assert find_cache_directory("profiles", environment) != made


def test_nothing_is_kept_where_no_directory_is_named() -> None:
    assert find_cache_directory("compiled", {}) is None
    assert find_cache_directory("compiled", {"EASEL_CACHE_DIR": ""}) is None


def test_a_place_that_cannot_be_written_costs_the_cache_and_not_the_start(tmp_path: Path) -> None:
    file = tmp_path / "a file"
    file.write_text("")
    assert find_cache_directory("compiled", {"EASEL_CACHE_DIR": str(file)}) is None
