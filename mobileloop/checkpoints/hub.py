"""A name on the Hugging Face hub as a source: pinned to a commit, and of its files only those that a model is made of.

What is downloaded lies in the library's own cache (HF_HOME, HF_HUB_CACHE) and is shared with every program that uses
it; HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE mean what they mean there.
"""

from __future__ import annotations

import errno
import logging
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mobileloop.errors import MobileloopError, library_errors, printable
from mobileloop.families.registry import family_of
from mobileloop.files import read_json

Tell = Callable[[str, float], None]  # of a bar: (what is fetched, share done)

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_NAME = re.compile(rf"(?:hf://)?({_PART}/{_PART})(?:@([^:@]+))?(?::([^/:]+\.gguf))?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SPLIT = re.compile(r"(.+)-\d{5}-of-(\d{5})\.gguf")
# A path to a file that is missing has such an end, and is no name on the hub.
_FILES = (".gguf", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pte", ".onnx", ".json", ".msgpack", ".h5")

_SETTINGS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    # What makes a folder another kind of model than it seems; the loader refuses by them.
    "adapter_config.json",
    "quantize_config.json",
    "quant_config.json",
    "model_index.json",
)
_WEIGHTS = "model.safetensors"
_PICKLE = "pytorch_model.bin"
_OTHER_WEIGHTS = (".msgpack", ".h5", ".onnx", ".pt", ".pth", ".ckpt", ".tflite", ".pte", ".npz", ".nemo")
_TRIES = 2
_SHOWN = 5  # names in a sentence


@dataclass(frozen=True)
class HubName:
    """`OWNER/NAME`, `OWNER/NAME@REVISION` or `OWNER/NAME:FILE.gguf`.

    Attributes:
        repo: owner and name.
        revision: a branch, a tag or a commit; None takes the default branch.
        file: the one .gguf file to take of a repository that holds several.
    """

    repo: str
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


@dataclass(frozen=True)
class Snapshot:
    """Files of one commit, on this machine.

    Attributes:
        name: as it was asked for.
        commit: 40 hexadecimal digits.
        path: of the folder, or of the .gguf file.
        notes: what the user should know.
    """

    name: HubName
    commit: str
    path: Path
    notes: tuple[str, ...] = field(default=())

    @property
    def label(self) -> str:
        """The source as an artifact names it, pinned; it is a source itself."""
        return f"{self.name.repo}@{self.commit}" + (f":{self.name.file}" if self.name.file else "")

    @property
    def title(self) -> str:
        """What the model is called."""
        return Path(self.name.file).stem if self.name.file else self.name.repo.rpartition("/")[2]


def hub_name(source: str) -> HubName | None:
    """The name on the hub that a source is, or None where it can only be a path.

    Raises:
        MobileloopError: where its revision is none.
    """
    match = _NAME.fullmatch(source)
    if match is None or (match[3] is None and source.endswith(_FILES)):
        return None
    if match[2] is not None and not _REVISION.fullmatch(match[2]):
        raise MobileloopError(
            f"'{printable(match[2])}' is no revision of {match[1]}; give a branch, a tag or a commit after the @."
        )
    return HubName(match[1], match[2], match[3])


def fetch_snapshot(name: HubName, weights_only_bin: bool, tell: Tell) -> Snapshot:
    """The files of a model, downloaded where the cache does not hold them.

    Args:
        name: of the model.
        weights_only_bin: take pickled weights where there are no others.
        tell: told what is fetched.

    Raises:
        MobileloopError: where the hub cannot be reached, refuses, or holds no model that can be run.
    """
    with _quiet_library():
        return _Fetch(name, tell).snapshot(weights_only_bin)


@dataclass
class _Fetch:
    """One model's download."""

    name: HubName
    tell: Tell
    notes: list[str] = field(default_factory=list)

    def snapshot(self, weights_only_bin: bool) -> Snapshot:
        commit, sizes = self._listing()
        if self.name.file is not None:
            chosen = self._parts(sizes)
        else:
            chosen = self._settings(sizes)
            for file in chosen:
                self._file(file, commit)
            self._check_config(commit, sizes)
            chosen = self._weights(sizes, commit, weights_only_bin)
            self._note_left_out(sizes, chosen)
        self._check_space([sizes[file] for file in chosen if self._cached(file, commit) is None])
        paths = [self._file(file, commit, sizes[file]) for file in chosen]
        path = paths[0] if self.name.file is not None else paths[0].parent
        return Snapshot(self.name, commit, path, tuple(self.notes))

    # -- what there is -----------------------------------------------------------------------------

    def _listing(self) -> tuple[str, Mapping[str, int]]:
        """(commit, size of every file at the top of the repository), from the cache where the hub is out of reach."""
        from huggingface_hub import HfApi

        self.tell(f"asking for {self.name.repo}", 0.0)
        try:
            info = HfApi().model_info(self.name.repo, revision=self.name.revision, files_metadata=True, timeout=20)
        except Exception as error:
            if not _out_of_reach(error):
                raise self._refusal(error) from None
            return self._cached_listing(error)
        commit = info.sha or ""
        if not _COMMIT.fullmatch(commit):
            raise MobileloopError(
                f"the hub named no commit of {self.name}, so it cannot be pinned; check HF_ENDPOINT, or try again."
            )
        # A name with a folder in it is none of a model's files, and one that leads out of the repository is an attack.
        files = {one.rfilename: one.size or 0 for one in info.siblings or [] if _plain(one.rfilename)}
        self._remember(commit)
        return commit, files

    def _cached_listing(self, error: Exception) -> tuple[str, Mapping[str, int]]:
        """The commit that was fetched last, and its files that are here."""
        commit = self.name.revision or "main"
        with _unreadable("the cache of the hub"):
            if not _COMMIT.fullmatch(commit):
                reference = self._home() / "refs" / commit
                commit = reference.read_text(encoding="ascii").strip() if reference.is_file() else ""
            folder = self._home() / "snapshots" / commit
            found = {one.name: one.stat().st_size for one in folder.iterdir() if one.is_file()} if commit else {}
        if not _COMMIT.fullmatch(commit) or not found:
            raise self._refusal(error)
        self.notes.append(f"the hub was not asked, so commit {commit[:12]} of {self.name.repo} is taken from the cache")
        if self.name.file is None and not any(one.startswith("tokenizer.") for one in found):
            self.notes.append(
                "the cache holds no tokenizer of it, which the hub may have: fetch it again with a network"
            )
        return commit, found

    def _remember(self, commit: str) -> None:
        """Note the revision's commit where the library looks for it, so that it is found without a network."""
        if self.name.revision == commit:
            return
        reference = self._home() / "refs" / (self.name.revision or "main")
        with self._disk():
            reference.parent.mkdir(parents=True, exist_ok=True)
            reference.write_text(commit, encoding="ascii")

    def _home(self) -> Path:
        from huggingface_hub import constants

        return Path(constants.HF_HUB_CACHE, f"models--{self.name.repo.replace('/', '--')}")

    # -- what of it counts -------------------------------------------------------------------------

    def _settings(self, sizes: Mapping[str, int]) -> list[str]:
        if "config.json" not in sizes and "model_index.json" not in sizes and "adapter_config.json" not in sizes:
            ggufs = sorted(file for file in sizes if file.endswith(".gguf"))
            if ggufs:
                raise MobileloopError(
                    f"{self.name.repo} holds GGUF files only ({_some(ggufs)}); choose one, as in "
                    f"{self.name}:{printable(ggufs[0])}."
                )
            raise MobileloopError(
                f"{self.name} on the hub has no config.json, so it is not a model that mobileloop reads (it holds "
                f"{_some(sorted(sizes)) or 'nothing'})."
            )
        return [file for file in sorted(sizes) if file in _SETTINGS or file.startswith("chat_template")]

    def _check_config(self, commit: str, sizes: Mapping[str, int]) -> None:
        """Refuse before the download what would be refused behind it."""
        if "config.json" in sizes:
            path = self._file("config.json", commit)
            with named(path.parent, self.name.repo):
                family_of(read_json(path).get("model_type"), str(path))

    def _weights(self, sizes: Mapping[str, int], commit: str, weights_only_bin: bool) -> list[str]:
        """The weights as the folder's loader looks for them, an index before its shards."""
        others = sorted(file for file in sizes if file.endswith(".safetensors"))
        for whole, wanted in ((_WEIGHTS, True), (_PICKLE, weights_only_bin and not others)):
            if wanted and whole in sizes:
                return [whole]
            index = f"{whole}.index.json"
            if wanted and index in sizes:
                return [index, *self._shards(self._file(index, commit), sizes)]
        if others:
            if len(others) == 1:
                return others
            raise MobileloopError(
                f"{self.name} has neither {_WEIGHTS} nor its index, but {_some(others)}; which of them are the model "
                "is not known: put the right one into a folder of yours as model.safetensors."
            )
        pickles = sorted(file for file in sizes if file.startswith("pytorch_model") and file.endswith(".bin"))
        if pickles:
            raise MobileloopError(
                f"{self.name} holds pickled weights only ({_some(pickles)}), which can run code when they are opened; "
                "--weights-only-bin reads them by PyTorch's weights-only loader in a process of its own."
            )
        kinds = sorted(file for file in sizes if file.endswith((*_OTHER_WEIGHTS, ".gguf", ".bin")))
        raise MobileloopError(
            f"{self.name} holds no safetensors file"
            + (f", but {_some(kinds)}, which mobileloop does not read from there" if kinds else "")
            + "; take a model that is published as safetensors or GGUF."
        )

    def _note_left_out(self, sizes: Mapping[str, int], chosen: Sequence[str]) -> None:
        """What the folder's loader would say of files that are not fetched."""
        weights = (*_OTHER_WEIGHTS, ".safetensors", ".gguf", ".bin")
        beside = sorted(file for file in sizes if file.endswith(weights) and file not in chosen)
        if beside:
            self.notes.append(f"weights beside the model are not read: {_some(beside)}")
        if any(file.startswith("additional_chat_templates/") for file in sizes):
            self.notes.append("additional_chat_templates/ holds more chat templates, which are left out")

    def _shards(self, index: Path, sizes: Mapping[str, int]) -> list[str]:
        with named(index.parent, self.name.repo):
            held = read_json(index).get("weight_map")
            if not isinstance(held, dict) or not held:
                raise MobileloopError(f"{index} has no weight_map, so the shards are unknown; take another revision.")
            names = sorted({str(value) for value in held.values()})
            lacking = [one for one in names if one not in sizes]
            if lacking:
                raise MobileloopError(
                    f"{index} names the shard '{printable(lacking[0])}', which the repository does not hold beside it."
                )
        return names

    def _parts(self, sizes: Mapping[str, int]) -> list[str]:
        """The chosen .gguf file; every part of it where it is split."""
        file = str(self.name.file)
        if file not in sizes:
            ggufs = sorted(one for one in sizes if one.endswith(".gguf"))
            raise MobileloopError(f"{self.name} has no {printable(file)}; it holds {_some(ggufs) or 'no GGUF file'}.")
        split = _SPLIT.fullmatch(file)
        parts = [f"{split[1]}-{n + 1:05}-of-{split[2]}.gguf" for n in range(min(int(split[2]), 999))] if split else []
        return [file, *(one for one in parts if one in sizes and one != file)]

    # -- fetching it -------------------------------------------------------------------------------

    def _cached(self, file: str, commit: str) -> Path | None:
        path = self._home() / "snapshots" / commit / file
        return path if path.is_file() else None

    def _check_space(self, missing: Sequence[int]) -> None:
        with self._disk():
            self._home().mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self._home()).free
        if sum(missing) > free:
            raise self._full(f"{sum(missing) / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are free")

    def _file(self, file: str, commit: str, size: int = 0) -> Path:
        """Download one file, or find it in the cache.

        A connection that is cut goes on where it was; where the library gives up, the file is begun again.
        """
        from huggingface_hub import hf_hub_download

        held = self._cached(file, commit)
        if held is not None:
            return held
        bar = _bar_class(self.tell, file, size)
        for tries_left in reversed(range(_TRIES)):
            try:
                return Path(hf_hub_download(self.name.repo, file, revision=commit, tqdm_class=bar))
            except Exception as error:
                if not (tries_left and _is_network(error)):
                    raise self._refusal(error) from None
        raise AssertionError

    # -- what went wrong ---------------------------------------------------------------------------

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._refusal(error) from None

    def _full(self, why: str) -> MobileloopError:
        return MobileloopError(
            f"{self.name.repo} does not fit the disk of {self._home().parent} ({why}); free some space, or name "
            "another folder with HF_HOME."
        )

    def _refusal(self, error: BaseException) -> MobileloopError:
        """One sentence of whatever the library raised."""
        from huggingface_hub import constants, errors

        name, page = self.name.repo, f"{constants.ENDPOINT}/{self.name.repo}"
        status = getattr(getattr(error, "response", None), "status_code", None)
        told, token = str(error), _has_token()
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return self._full("it is full")
        if isinstance(error, errors.GatedRepoError):
            whose = "whose token HF_TOKEN is" if token else "and give its token as HF_TOKEN"
            return MobileloopError(f"{name} is gated: accept its terms on {page} with the account {whose}.")
        if isinstance(error, errors.RevisionNotFoundError):
            return MobileloopError(
                f"{name} has no revision '{self.name.revision}'; see its branches and tags on {page}."
            )
        if token and (status == 403 or (status == 401 and "nvalid" in told)):
            return MobileloopError(
                f"the hub does not accept the token for {name}; check HF_TOKEN, or unset it for a public model."
            )
        if isinstance(error, errors.RepositoryNotFoundError):
            hint = "the token's account may not see it" if token else "a private one needs HF_TOKEN"
            return MobileloopError(
                f"there is no folder {name} here and no model of that name on {constants.ENDPOINT}; check the spelling "
                f"({hint})."
            )
        if isinstance(error, errors.EntryNotFoundError) and status == 404:
            return MobileloopError(f"{self.name} lacks a file that its list names; try again, or take a revision.")
        if constants.HF_HUB_OFFLINE:
            return MobileloopError(
                f"there is no folder {name} here, and the cache in {self._home().parent} does not hold {self.name}; "
                "unset HF_HUB_OFFLINE to fetch it."
            )
        if status is not None:
            return MobileloopError(f"the hub answered {status} for {name}; try again later ({page}).")
        if _out_of_reach(error) or _is_network(error):
            return MobileloopError(
                f"there is no folder {name} here, and {constants.ENDPOINT} cannot be reached ({_first_line(error)}); "
                "check the network and try again: what was fetched is kept."
            )
        return MobileloopError(f"{name} could not be fetched ({_first_line(error)}); try again.")


@contextmanager
def named(folder: Path, name: str) -> Iterator[None]:
    """Say `name` for a folder that the user did not name, in whatever is refused inside the block."""
    try:
        yield
    except MobileloopError as error:
        raise MobileloopError(str(error).replace(str(folder), name)) from None


def _has_token() -> bool:
    from huggingface_hub import get_token

    with suppress(Exception):  # it reads a file of the user's, too
        return bool(get_token())
    return False


def _plain(file: object) -> bool:
    return isinstance(file, str) and bool(file) and file.isprintable() and "/" not in file and "\\" not in file


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(printable(name) for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return printable(lines[0].strip().rstrip(".")) if lines else type(error).__name__


def _is_network(error: BaseException) -> bool:
    """Whether the connection failed; the library's HTTP client has had three names by now."""
    if getattr(error, "response", None) is not None:
        return False
    module = type(error).__module__.partition(".")[0]
    torn = module in ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")
    return torn or isinstance(error, (ConnectionError, TimeoutError)) or "Consistency check" in str(error)


def _out_of_reach(error: BaseException) -> bool:
    """Whether the hub gave no answer that counts, so that the cache may stand for it."""
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return int(status) >= 500
    offline = (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError)
    return isinstance(error, offline) or _is_network(error)


def _bar_class(tell: Tell, file: str, size: int) -> Any:
    """What the library takes for tqdm: it counts bytes and shows them in our bar."""

    class Bar:
        def __init__(self, *_: Any, total: float | None = None, initial: float = 0, **more: Any) -> None:
            self.n, self.total = float(initial), total or size
            self.shown = "reconstructing" not in str(more.get("desc"))  # a second bar of the same file

        def update(self, count: float | None = 1) -> None:
            self.n += count or 0
            if self.shown and self.total:
                tell(f"{file}, {self.total / 1e6:,.0f} MB", min(1.0, self.n / self.total))

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def __getattr__(self, name: str) -> Callable[..., None]:
            if name.startswith("__") or name in ("update_transfer", "update_progress"):
                raise AttributeError(name)
            return lambda *_, **__: None

    return Bar


@contextmanager
def _unreadable(what: str) -> Iterator[None]:
    with library_errors(what, "delete it and fetch again"):
        yield


@contextmanager
def _quiet_library() -> Iterator[None]:
    """What matters of the library's warnings is in our sentences."""
    with library_errors("huggingface_hub", "install it again with: pip install -U huggingface_hub"):
        from huggingface_hub import file_download, hf_api  # noqa: F401  (they set the logger's level when imported)

    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
