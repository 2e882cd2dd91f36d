"""The lake under rewrites and damage: a reader gets the content that was written, whole, or a named error."""

import io
import json
import shutil
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lake_kit import (
    AFTER,
    BEFORE,
    DAY,
    ROWS,
    content,
    data_file,
    manifest_file,
    neighbours_are_untouched,
    three_days,
    version,
)

from feature_repo.lake.datasets import (
    DamagedPartition,
    Lake,
    LakeError,
    LakeFile,
    Manifest,
    MissingPartitions,
    encode,
)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return three_days(tmp_path / "lake")


def test_what_a_killed_writer_left_behind_is_never_read(lake: Lake) -> None:
    folder = manifest_file(lake).parent
    (folder / f".{uuid.uuid4().hex}.parquet.{uuid.uuid4().hex}").write_bytes(b"PAR1 half a file")
    (folder / f".manifest.json.{uuid.uuid4().hex}").write_text('{"format": 1, "rows":')
    whole, _ = encode(content(9))
    (folder / "0123456789abcdef0123456789abcdef.parquet").write_bytes(whole)
    unfinished = Path(lake.root, "x", "2025-03-04")
    unfinished.mkdir()
    (unfinished / "0123456789abcdef0123456789abcdef.parquet").write_bytes(whole)
    assert version(lake) == 1
    neighbours_are_untouched(lake)
    with pytest.raises(MissingPartitions, match=r"x: nothing materialized for 2025-03-04"):
        lake.read("x", ["2025-03-04"])


# Rewrites


def test_a_second_write_with_fewer_rows_leaves_only_the_second(lake: Lake) -> None:
    lake.write("x", DAY, content(2, rows=3))
    assert lake.read("x", [DAY]).to_pydict() == {"version": [2, 2, 2], "text": ["2-0", "2-1", "2-2"]}
    assert lake.manifests("x", [DAY])[0].rows == 3
    assert (version(lake, BEFORE), version(lake, AFTER)) == (100, 102)
    assert lake.read("x", [BEFORE, DAY, AFTER]).num_rows == 2 * ROWS + 3
    assert len(lake.files("x", [BEFORE, DAY, AFTER])) == 3


def test_a_partition_can_become_empty_and_full_again(lake: Lake) -> None:
    lake.write("x", DAY, content(1).slice(0, 0))
    assert lake.read("x", [DAY]).num_rows == 0
    assert lake.read("x", [DAY]).schema == content(1).schema
    lake.write("x", DAY, content(2))
    assert version(lake) == 2


def test_a_reader_that_holds_an_older_manifest_still_finds_its_file(lake: Lake) -> None:
    files = lake.files("x", [DAY])
    lake.write("x", DAY, content(2))
    assert pq.read_table(files[0]).equals(content(1))


def test_the_same_content_has_the_same_digest_and_other_content_another(lake: Lake, tmp_path: Path) -> None:
    one = lake.manifests("x", [DAY])[0]
    again = lake.write("x", DAY, content(1), validated=True, metadata={"of": "another run"})
    elsewhere = Lake(tmp_path / "elsewhere").write("y", "2019-01-01", content(1))
    assert one.digest == again.digest == elsewhere.digest
    assert one.files == again.files == elsewhere.files
    digests = {
        lake.write("x", DAY, table).digest
        for table in (content(1), content(2), content(1, rows=ROWS - 1), content(1).select(["version"]))
    }
    assert len(digests) == 4


def test_a_manifest_keeps_what_its_writer_said(lake: Lake) -> None:
    written = lake.write("x", DAY, content(1), validated=True, metadata={"received": 12})
    assert lake.manifest("x", DAY) == written
    assert (written.validated, written.metadata, written.rows) == (True, {"received": 12}, ROWS)
    assert written.schema == {"version": "int64", "text": "string"}
    assert lake.write("x", DAY, content(1)).validated is False


@given(
    st.lists(
        st.tuples(
            st.text(max_size=20),
            st.one_of(st.none(), st.floats(allow_nan=False)),
            st.lists(st.text(max_size=5), max_size=3),
        ),
        max_size=20,
    )
)
def test_what_is_written_is_read_back(rows: list[tuple[str, float | None, list[str]]]) -> None:
    names, numbers, lists = zip(*rows, strict=True) if rows else ((), (), ())
    table = pa.table(
        {
            "n": pa.array(names, pa.string()),
            "x": pa.array(numbers, pa.float64()),
            "l": pa.array(lists, pa.list_(pa.string())),
        }
    )
    lake = Lake(f"memory://{uuid.uuid4().hex}")
    written = lake.write("any", "one", table)
    assert lake.read("any", ["one"]).to_pylist() == table.to_pylist()
    assert lake.read("any", ["one"], ["x"]).column_names == ["x"]
    assert Manifest.from_json(written.to_json()) == written


# Missing and damaged


def test_partitions_that_were_never_written_are_named(lake: Lake) -> None:
    days = [f"2025-04-0{n}" for n in range(1, 7)]
    with pytest.raises(MissingPartitions) as caught:
        lake.read("x", [DAY, *days])
    assert caught.value.dataset == "x"
    assert caught.value.partitions == tuple(days)
    assert str(caught.value) == "x: nothing materialized for 2025-04-01, 2025-04-02, 2025-04-03 and 3 more"
    with pytest.raises(MissingPartitions, match=r"never_made: nothing materialized for 2025-03-02$"):
        lake.read("never_made", [DAY])
    assert lake.manifest("x", "2025-04-01") is None
    assert lake.partitions("never_made") == []
    assert lake.between("x", "2025-03-02", "2025-12-31") == [DAY, AFTER]


def test_asking_for_no_partition_at_all_is_an_error(lake: Lake) -> None:
    with pytest.raises(LakeError, match="x: asked for no partition at all"):
        lake.read("x", [])


@pytest.mark.parametrize("kept", [0, 3, 100, -8, -1])
def test_a_truncated_data_file_is_named(lake: Lake, kept: int) -> None:
    path = data_file(lake)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(
        DamagedPartition, match=rf"x/{DAY}/{path.name}: \d+ bytes where its manifest says \d+"
    ):
        lake.read("x", [BEFORE, DAY])
    assert version(lake, BEFORE) == 100


def test_a_data_file_that_is_gone_is_named(lake: Lake) -> None:
    path = data_file(lake)
    path.unlink()
    with pytest.raises(DamagedPartition, match=f"x/{DAY}/{path.name}: cannot be read"):
        lake.read("x", [DAY])


def test_a_data_file_of_other_rows_or_columns_is_named(lake: Lake) -> None:
    path = data_file(lake)
    for other, why in (
        (content(1, rows=ROWS - 1), "bytes where"),
        (content(1).rename_columns(["version", "tent"]), "columns are not those"),
    ):
        buffer = io.BytesIO()
        pq.write_table(other, buffer, compression="zstd", write_page_checksum=True)
        manifest = json.loads(manifest_file(lake).read_text())
        path.write_bytes(buffer.getvalue())
        if why != "bytes where":
            manifest["files"][0]["bytes"] = len(buffer.getvalue())
            manifest_file(lake).write_text(json.dumps(manifest))
        with pytest.raises(DamagedPartition, match=f"x/{DAY}/{path.name}.*{why}"):
            lake.read("x", [DAY])


@pytest.fixture(scope="module")
def altered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, Path, bytes]:
    lake = Lake(tmp_path_factory.mktemp("altered"))
    lake.write("x", DAY, content(1, rows=400))
    path = data_file(lake)
    return lake, path, path.read_bytes()


@given(st.data())
def test_a_data_file_with_one_altered_bit_is_damaged_or_reads_the_same(
    altered: tuple[Lake, Path, bytes], data: st.DataObject
) -> None:
    lake, path, whole = altered
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    spoilt = bytearray(whole)
    spoilt[bit // 8] ^= 1 << bit % 8
    path.write_bytes(spoilt)
    try:
        table = lake.read("x", [DAY])
    except DamagedPartition as error:
        assert f"x/{DAY}/{path.name}" in str(error)  # noqa: PT017 - a bit that holds no value may be any
    else:
        assert table.equals(content(1, rows=400))
    finally:
        path.write_bytes(whole)


def test_an_altered_value_is_never_read_as_one(altered: tuple[Lake, Path, bytes]) -> None:
    lake, path, whole = altered
    places = range(
        4, len(whole) // 2, 7
    )  # pages of values, and between them headers whose statistics nobody reads
    damaged = 0
    for place in places:
        spoilt = bytearray(whole)
        spoilt[place] ^= 0xFF
        path.write_bytes(spoilt)
        try:
            assert lake.read("x", [DAY]).equals(content(1, rows=400)), place
        except DamagedPartition:
            damaged += 1
    path.write_bytes(whole)
    assert damaged > 0.8 * len(places)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"null",
        b"3",
        b'"text"',
        b"[]",
        b"{}",
        b"\xff\xfe\x00",
        b'{"format": 1}',
        b'{"format": 2, "dataset": "x"}',
        b'{"format": 1, "files": 3}',
    ],
)
def test_a_broken_manifest_is_named_and_not_taken_for_a_missing_one(lake: Lake, text: bytes) -> None:
    manifest_file(lake).write_bytes(text)
    for read in (
        lambda: lake.manifest("x", DAY),
        lambda: lake.read("x", [BEFORE, DAY]),
        lambda: lake.files("x", [DAY]),
    ):
        with pytest.raises(DamagedPartition, match=f"x/{DAY}: its manifest cannot be read"):
            read()
    assert version(lake, BEFORE) == 100
    lake.write("x", DAY, content(2))
    assert version(lake) == 2


def test_a_manifest_with_a_field_too_many_or_too_few_is_broken(lake: Lake) -> None:
    values = json.loads(manifest_file(lake).read_text())
    for broken in (
        {**values, "colour": "red"},
        {k: v for k, v in values.items() if k != "rows"},
        {**values, "files": [{"name": "a"}]},
    ):
        manifest_file(lake).write_text(json.dumps(broken))
        with pytest.raises(DamagedPartition, match=f"x/{DAY}: its manifest cannot be read"):
            lake.read("x", [DAY])


def test_a_partition_copied_over_another_does_not_pass_for_it(lake: Lake) -> None:
    shutil.rmtree(manifest_file(lake).parent)
    shutil.copytree(manifest_file(lake, BEFORE).parent, manifest_file(lake).parent)
    with pytest.raises(DamagedPartition, match=f"x/{DAY}: its manifest is of x/{BEFORE}"):
        lake.read("x", [DAY])


def test_partitions_of_different_columns_cannot_be_read_as_one(lake: Lake) -> None:
    lake.write("x", DAY, content(1).drop_columns(["text"]))
    with pytest.raises(DamagedPartition, match="x: its partitions have different columns or types"):
        lake.read("x", [BEFORE, DAY])


# Roots


def test_an_object_store_root_holds_the_same_lake(lake: Lake) -> None:
    memory = Lake(f"memory://{uuid.uuid4().hex}/prefix/")
    first = memory.write("x", DAY, content(1))
    assert first.digest == lake.manifests("x", [DAY])[0].digest
    memory.write("x", AFTER, content(3))
    memory.write("x", DAY, content(2, rows=3))
    assert memory.partitions("x") == [DAY, AFTER]
    assert memory.read("x", [DAY, AFTER]).num_rows == 3 + ROWS
    (address,) = memory.files("x", [AFTER])
    assert address.startswith("memory://")
    assert memory.manifest("x", BEFORE) is None
    assert memory.partitions("never_made") == []
    with pytest.raises(MissingPartitions, match=BEFORE):
        memory.read("x", [BEFORE])
    memory.fs.pipe_file(address, b"PAR1 nothing PAR1")
    with pytest.raises(DamagedPartition, match=f"x/{AFTER}"):
        memory.read("x", [AFTER])
    memory.fs.pipe_file(f"{memory.root}/x/{AFTER}/manifest.json", b"{")
    with pytest.raises(DamagedPartition, match=f"x/{AFTER}"):
        memory.read("x", [AFTER])


def test_a_relative_root_and_one_with_a_slash_are_the_same_folder(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(lake.root).parent)
    assert version(Lake("lake/")) == 1
    assert version(Lake(Path("lake"))) == 1


def test_a_place_that_is_no_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "lake").write_text("a file")
    lake = Lake(tmp_path / "lake")
    assert lake.partitions("x") == []
    assert lake.manifest("x", DAY) is None
    with pytest.raises(LakeError, match=f"{tmp_path}/lake/x/{DAY}/.*cannot be written"):
        lake.write("x", DAY, content(1))


def test_a_data_file_knows_its_own_digest() -> None:
    bytes_of, file = encode(content(1))
    assert file == LakeFile(f"{file.sha256[:32]}.parquet", ROWS, len(bytes_of), file.sha256)
