"""A folder of YAML files to a checked fleet, with every problem at once.

The path is the whole desired state, so an empty or unreadable one is an error and never an
empty fleet. Called by ``cli`` and the daemon; ``fallback`` builds on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.errors import MetaldError, Problem, SpecError
from reconciler.model.addresses import ResourceAddress
from reconciler.model.fleet import Fleet
from reconciler.model.specs import AnyDocument, Image, Vm
from reconciler.model.survey import Survey
from reconciler.planning.checks import check, check_alone
from reconciler.planning.findings import Finding
from reconciler.source.content import Content, Contents, named
from reconciler.source.positions import locate
from reconciler.source.reading import read_bytes
from reconciler.source.validation import dotted_path
from reconciler.source.walk import spec_files

if TYPE_CHECKING:
    from reconciler.source.kept import KeptDocuments


@dataclass(frozen=True, slots=True)
class Place:
    """Where a document was written: the file as shown to people with the text it had, the
    document's first line (from 1) and the characters before that line.
    """

    file: str
    text: str
    line: int
    offset: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One document of a file."""

    document: AnyDocument
    address: ResourceAddress
    place: Place


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file. ``key``: its path inside the tree, the same wherever the tree lies.

    ``survey`` of its VMs, ``alone``: what is wrong with each of them, whatever others declare.
    """

    path: Path
    key: str
    content: Content
    entries: tuple[Entry, ...]
    survey: Survey
    alone: tuple[Finding, ...]

    @staticmethod
    def of(path: Path, key: str, content: Content) -> SourceFile:
        """The file with its documents, the paths in them made absolute."""
        entries = tuple(_entries(path, content))
        vms = [(e.address, e.document) for e in entries if isinstance(e.document, Vm)]
        return SourceFile(path, key, content, entries, Survey.of(vms), tuple(check_alone(vms)))

    @property
    def name(self) -> str:
        """As shown to people."""
        return str(self.path)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with the file taken alone."""
        return named(self.content.problems, self.name)


def _entries(path: Path, content: Content) -> Iterator[Entry]:
    name, text = str(path), content.text
    for placed in content.documents:
        document = placed.document
        if isinstance(document, Image):
            document = _anchored(document, path.parent)
        yield Entry(document, placed.address, Place(name, text, placed.line, placed.offset))


@dataclass(frozen=True, slots=True)
class Loaded:
    """A tree as loaded. ``fleet`` holds what is usable; strict callers look at ``problems``.

    ``good_texts``: by path inside the tree, what is worth keeping as last good content.
    ``named_within``: a folder that people do not know, such as our copy of a commit.
    """

    fleet: Fleet
    places: Mapping[ResourceAddress, Place]
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    good_texts: Mapping[str, str] = field(default_factory=dict)
    named_within: str = ""

    def problem_of(self, finding: Finding) -> Problem:
        """A finding with its position in the files."""
        place = self.places.get(finding.resource)
        name = dotted_path(finding.path)
        if place is None:
            return Problem("-", 0, 0, finding.message, finding.resource, name, finding.hint)
        paths = [finding.path]
        position = locate(place.text, paths, offset=place.offset, line=place.line)[finding.path]
        found = Problem(
            place.file, *position, finding.message, finding.resource, name, finding.hint
        )
        return found.named_within(self.named_within)

    def require(self) -> Fleet:
        """The fleet, when nothing is wrong with it. Raises SpecError with every problem."""
        if self.problems:
            raise SpecError(self.problems)
        return self.fleet


@dataclass(frozen=True, slots=True)
class Combined:
    """Documents as one fleet, checked. ``loaded`` has the problems of the whole: of the checks,
    and of addresses declared twice; ``twice`` names the files that do so.
    """

    loaded: Loaded
    twice: frozenset[str]


class Cache(Contents):
    """Parsed files that one caller keeps from load to load, and the tree they made last."""

    def __init__(self, on_disk: KeptDocuments | None = None) -> None:
        super().__init__(on_disk)
        self._files: dict[Path, SourceFile] = {}
        self._whole: tuple[list[SourceFile], Combined] | None = None

    def file(self, path: Path, key: str, raw: bytes) -> SourceFile:
        """The file with this content; the same object while it stays the same."""
        content = self.content(raw)
        known = self._files.get(path)
        if known is None or known.content is not content or known.key != key:
            known = self._files[path] = SourceFile.of(path, key, content)
        return known

    def unreadable(self, path: Path, key: str, problem: Problem) -> SourceFile:
        """The file that could not be read; the same object while that goes on."""
        content = Content(problems=(problem,), hides=True)
        known = self._files.get(path)
        if known is None or known.content != content or known.key != key:
            known = self._files[path] = SourceFile.of(path, key, content)
        return known

    def as_they_are(self, files: list[SourceFile]) -> Combined:
        """As the function of this name; again only when a file differs."""
        last = self._whole
        if last is None or list(map(id, last[0])) != list(map(id, files)):
            last = self._whole = (files, as_they_are(files))
            self._files = {file.path: file for file in files}
        return last[1]


def load(path: Path, cache: Cache | None = None) -> Loaded:
    """Load a file or a folder. Raises MetaldError when it is missing or empty."""
    cache = Cache() if cache is None else cache
    with cache.load():
        files = read_files(path, cache)
        return cache.as_they_are(files).loaded


def read_files(path: Path, cache: Cache) -> list[SourceFile]:
    """Every file of a tree; one that cannot be read is wrong, and may declare anything.

    Raises MetaldError when there is none, or a folder cannot be read.
    """
    root = root_of(path)
    return [_read(file, file.relative_to(root).as_posix(), cache) for file in spec_files(path)]


def _read(file: Path, key: str, cache: Cache) -> SourceFile:
    try:
        raw = read_bytes(file)
    except MetaldError as error:
        return cache.unreadable(file, key, Problem("", 1, 1, error.message, hint=error.hint))
    return cache.file(file, key, raw)


def root_of(path: Path) -> Path:
    """The folder that paths inside a tree are relative to."""
    return path.parent if path.is_file() else path


def as_they_are(files: list[SourceFile]) -> Combined:
    """All files together, with every problem. Raises MetaldError when they declare nothing."""
    own = [problem for file in files for problem in file.problems]
    combined = combine((entry for file in files for entry in file.entries), files)
    found = combined.loaded
    if not (len(found.fleet) or own):
        raise MetaldError(
            "the files declare nothing; an empty tree is never taken as an empty fleet",
            subject=files[0].name,
            hint="to remove everything, run metald destroy",
        )
    problems = tuple(sorted({*own, *found.problems}))
    good = {file.key: file.content.text for file in files}
    return Combined(
        Loaded(found.fleet, found.places, problems, found.warnings, good), combined.twice
    )


def combine(entries: Iterable[Entry], files: Sequence[SourceFile] = ()) -> Combined:
    """Build the fleet and check it; of an address declared twice the first counts.

    ``files``: those that the entries are all of, if they are so.
    """
    places: dict[ResourceAddress, Place] = {}
    documents: list[tuple[ResourceAddress, AnyDocument]] = []
    problems: list[Problem] = []
    twice: set[str] = set()
    for entry in entries:
        before = places.get(entry.address)
        if before is not None:
            problems.append(_duplicate(entry, before))
            twice.update((before.file, entry.place.file))
            continue
        places[entry.address] = entry.place
        documents.append((entry.address, entry.document))
    # What is declared twice is counted twice in the files.
    counted = files and not twice
    surveys = [file.survey for file in files] if counted else None
    bare = Loaded(Fleet.of_addressed(documents, surveys=surveys), places)
    findings = check(bare.fleet, chain(*(file.alone for file in files)) if counted else None)
    problems += [bare.problem_of(entry) for entry in findings if entry.severity == "error"]
    warnings = [bare.problem_of(entry) for entry in findings if entry.severity == "warning"]
    loaded = Loaded(bare.fleet, places, tuple(sorted(set(problems))), tuple(sorted(warnings)))
    return Combined(loaded, frozenset(twice))


def _duplicate(entry: Entry, before: Place) -> Problem:
    place = entry.place
    message = f"declared already at {before.file}:{before.line}"
    return Problem(place.file, place.line, 1, message, entry.address, "", "remove one of the two")


def _anchored(document: Image, folder: Path) -> Image:
    """Image paths are relative to the file that declares them."""
    spec = document.spec
    update = {"kernel": spec.kernel.model_copy(update={"path": str(folder / spec.kernel.path)})}
    if spec.initrd is not None:
        update["initrd"] = spec.initrd.model_copy(update={"path": str(folder / spec.initrd.path)})
    return document.model_copy(update={"spec": spec.model_copy(update=update)})
