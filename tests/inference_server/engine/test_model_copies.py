"""A model in a bucket is copied into the cache, from a real S3 server: whole, resumed, of one version, and once."""

import uuid
from pathlib import Path

import obstore
import pytest
from easel_contract import metrics
from easel_contract.server_config import BucketCopyConfig, ModelCacheConfig, ModelConfig
from easel_server.engine.model_cache.copying import copy_objects, name_part
from easel_server.engine.model_cache.filling import fill_cache
from easel_server.engine.model_cache.progress import Needed, Progress
from easel_server.engine.model_cache.record import open_cache, read_record
from easel_server.engine.model_files.selection import ModelFileError
from obstore.store import S3Store

from tests.inference_server.engine.test_hub import FULL, write_repository
from tests.support.s3_server import ACCESS_KEY_ID, BUCKET, SECRET_ACCESS_KEY, S3Server

RECORD = "0123456789abcdef"
NAME = "fedcba9876543210"


class Place:
    """A prefix of the bucket of one test, a cache, and a Secret as the Job has it."""

    def __init__(self, server: S3Server, directory: Path) -> None:
        self.prefix = f"models/{uuid.uuid4().hex}"
        self.store = S3Store(
            BUCKET,
            endpoint=server.endpoint,
            region="us-east-1",
            access_key_id=ACCESS_KEY_ID,
            secret_access_key=SECRET_ACCESS_KEY,
            client_options={"allow_http": True},
        )
        self.secret = directory / "weights-bucket"
        self.secret.mkdir()
        (self.secret / "access-key-id").write_text(ACCESS_KEY_ID)
        (self.secret / "secret-access-key").write_text(SECRET_ACCESS_KEY)
        self.copy = BucketCopyConfig(
            uri=f"s3://{BUCKET}/{self.prefix}",
            endpoint=server.endpoint,
            credentials_directory=str(self.secret),
            name=NAME,
        )
        self.cache = ModelCacheConfig(directory=str(directory / "cache"), record=RECORD, copies=(self.copy,))
        self.copied = directory / "cache/s3" / NAME

    @property
    def model(self) -> ModelConfig:
        return ModelConfig(name="painter", source=str(self.copied), cache=self.cache)

    def put(self, name: str, content: bytes) -> str:
        """The entity tag."""
        return str(obstore.put(self.store, f"{self.prefix}/{name}", content)["e_tag"])

    def bring(self) -> None:
        copy_objects(self.copy, self.cache, Needed(Path(self.cache.directory) / "hub"))


@pytest.fixture
def place(s3_server: S3Server, tmp_path: Path) -> Place:
    return Place(s3_server, tmp_path)


def test_a_pipeline_is_copied_recorded_and_not_asked_for_again(place: Place, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    write_repository(repository, *FULL)
    files = {file.relative_to(repository).as_posix(): file for file in repository.rglob("*") if file.is_file()}
    for name, file in files.items():
        place.put(name, file.read_bytes())
    place.put(".gitattributes", b"hidden")

    progress = Progress()
    record = fill_cache(place.model, progress, hub_token=None)
    assert {f"s3/{NAME}/{name}" for name in files} == set(record.copies)
    assert all((place.copied / name).read_bytes() == file.read_bytes() for name, file in files.items())
    size = sum(file.stat().st_size for file in files.values())
    assert progress.measure() == {
        metrics.STATE_NEEDED: size,
        metrics.STATE_FETCHED: size,
        metrics.STATE_VERIFIED: size,
    }
    open_cache(place.cache, None)

    gone = place.cache.model_copy(
        update={"copies": (place.copy.model_copy(update={"endpoint": "http://127.0.0.1:9"}),)}
    )
    assert fill_cache(place.model.model_copy(update={"cache": gone}), Progress(), hub_token=None) == record
    (place.copied / "model_index.json").unlink()
    assert read_record(place.cache, RECORD) is None, "a file that is missing makes it a model that isn't whole"


def test_what_was_begun_is_gone_on_with_unless_the_object_is_another_one(place: Place) -> None:
    tag = place.put("unet/model.safetensors", b"0123456789")
    file = place.copied / "unet/model.safetensors"
    file.parent.mkdir(parents=True)
    name_part(file, tag).write_bytes(b"ABCDE")  # what no object has shows that it isn't asked for
    place.bring()
    assert file.read_bytes() == b"ABCDE56789"
    place.put("unet/model.safetensors", b"another one")
    place.bring()
    assert file.read_bytes() == b"another one"


def test_what_is_whole_is_not_copied_again(place: Place) -> None:
    place.put("model.safetensors", b"0123456789")
    place.bring()
    (place.copied / "model.safetensors").write_bytes(b"ABCDEFGHIJ")
    place.bring()
    assert (place.copied / "model.safetensors").read_bytes() == b"ABCDEFGHIJ"


def test_a_prefix_is_a_folder_and_not_the_beginning_of_a_name(place: Place) -> None:
    obstore.put(place.store, f"{place.prefix}-other/model.safetensors", b"x")
    place.put("model.safetensors", b"y")
    place.bring()
    assert [file.name for file in place.copied.iterdir() if not file.name.startswith(".")] == ["model.safetensors"]


def test_what_is_wrong_is_said_with_the_field_that_says_it(place: Place) -> None:
    with pytest.raises(ModelFileError, match="is no object; correct uri"):
        place.bring()
    place.put("model.safetensors", b"y")
    (place.secret / "secret-access-key").write_text("wrong")
    with pytest.raises(ModelFileError, match=r"s3:ListBucket .* check credentialsSecretName"):
        place.bring()
    (place.secret / "secret-access-key").unlink()
    with pytest.raises(ModelFileError, match="the Secret weights-bucket has no key secret-access-key"):
        place.bring()
