"""A folder of YAML files to a checked fleet: every problem at once, or last good content.

The path is the whole desired state, so an empty or unreadable one is an error and never an
empty fleet. Called by ``cli`` (strictly) and by the daemon (with fallback).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from reconciler.errors import MetaldError, Problem, SpecError
from reconciler.model.addresses import ResourceAddress, tenant_of
from reconciler.model.fleet import Fleet, Origin
from reconciler.model.specs import AnyDocument, Image
from reconciler.planning.checks import check
from reconciler.planning.findings import Finding
from reconciler.source.parse import ParseError, decode, locate, parse
from reconciler.source.validation import dotted_path, validated

SUFFIXES = frozenset({".yaml", ".yml"})


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file: its name as shown to people, its text, the documents in it, its problems."""

    name: str
    text: str
    documents: tuple[tuple[AnyDocument, Origin], ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A tree as loaded. ``fleet`` holds what is usable; strict callers look at ``problems``.

    ``good_texts``: by file name, what is worth keeping as last good content.
    """

    fleet: Fleet
    origins: Mapping[ResourceAddress, Origin]
    texts: Mapping[str, str]
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    good_texts: Mapping[str, str]

    def problem_of(self, finding: Finding) -> Problem:
        """A finding with its position in the files."""
        origin = self.origins.get(finding.resource)
        field = dotted_path(finding.path)
        if origin is None:
            return Problem("-", 0, 0, finding.message, finding.resource, field, finding.hint)
        line, column = locate(self.texts[origin.file], origin.index, finding.path)
        return Problem(
            origin.file, line, column, finding.message, finding.resource, field, finding.hint
        )

    def require(self) -> Fleet:
        """The fleet, when nothing is wrong with it. Raises SpecError with every problem."""
        if self.problems:
            raise SpecError(self.problems)
        return self.fleet


def load(path: Path) -> Loaded:
    """Load a file or a folder. Raises MetaldError when it is missing, unreadable or empty."""
    return _assemble([_read(file) for file in spec_files(path)], {})


def load_with_fallback(path: Path, last_good: Mapping[str, str]) -> Loaded:
    """Load a tree, using the last good text of files that are broken now.

    The resources of a broken file stay desired as they were last good, and every tenant it
    touched is frozen against deletion. Problems are reported all the same.
    """
    files = [_read(file) for file in spec_files(path)]
    return _assemble(files, last_good)


def spec_files(path: Path) -> tuple[Path, ...]:
    """The YAML files of a tree in a fixed order; hidden ones are passed over.

    Raises MetaldError when there are none or a folder cannot be read.
    """
    if not path.exists():
        raise MetaldError("no such file or folder", subject=str(path), hint="correct the path")
    if path.is_file():
        return (path,)
    found: list[Path] = []

    def unreadable(error: OSError) -> None:
        raise MetaldError(
            f"the folder cannot be read: {error.strerror}", subject=str(error.filename)
        ) from error

    for folder, subfolders, names in os.walk(path, onerror=unreadable):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        found.extend(
            Path(folder, name)
            for name in sorted(names)
            if not name.startswith(".") and Path(name).suffix in SUFFIXES
        )
    if not found:
        raise MetaldError(
            "there is no YAML file in it; an empty tree is never taken as an empty fleet",
            subject=str(path),
            hint="to remove everything, run metald destroy",
        )
    return tuple(found)


def _read(file: Path) -> SourceFile:
    name = str(file)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise MetaldError(
            f"the file cannot be read: {error.strerror}", subject=name, hint="check its mode"
        ) from error
    return parse_file(name, content, folder=file.parent)


def parse_file(name: str, content: bytes, *, folder: Path) -> SourceFile:
    """Documents and problems of one file's content; relative image paths start at ``folder``."""
    text = ""
    documents: list[tuple[AnyDocument, Origin]] = []
    problems: list[Problem] = []
    try:
        text = decode(content)
        for raw in parse(text):
            checked = validated(raw, file=name, text=text)
            if isinstance(checked, tuple):
                problems.extend(checked)
            else:
                origin = Origin(name, raw.index, raw.line)
                documents.append((_anchored(checked, folder), origin))
    except ParseError as error:
        problems.append(Problem(name, error.line, error.column, error.message, hint=error.hint))
    return SourceFile(name, text, tuple(documents), tuple(problems))


def _anchored(document: AnyDocument, folder: Path) -> AnyDocument:
    """Image paths are relative to the file that declares them."""
    if not isinstance(document, Image):
        return document
    spec = document.spec
    update = {"kernel": spec.kernel.model_copy(update={"path": str(folder / spec.kernel.path)})}
    if spec.initrd is not None:
        update["initrd"] = spec.initrd.model_copy(update={"path": str(folder / spec.initrd.path)})
    return document.model_copy(update={"spec": spec.model_copy(update=update)})


def _assemble(files: list[SourceFile], last_good: Mapping[str, str]) -> Loaded:
    """Build and check the fleet; with last good content, broken files count as they were."""
    first = _combine(files)
    if not (first.documents or first.problems):
        raise MetaldError(
            "the files declare nothing; an empty tree is never taken as an empty fleet",
            subject=files[0].name,
            hint="to remove everything, run metald destroy",
        )
    broken = {problem.file for problem in first.problems}
    usable = [file for file in files if file.name not in broken]
    good = {file.name: file.text for file in usable}
    if not broken or not last_good:
        return Loaded(first.fleet, first.origins, first.texts, first.problems, first.warnings, good)
    fallback = _parsed(last_good, broken)
    vanished = _vanished(last_good, {file.name for file in files}, broken)
    touched = [*fallback, *vanished, *(file for file in files if file.name in broken)]
    second = _combine([*usable, *fallback])
    fleet = Fleet.of(second.documents, frozen_tenants=frozenset(_tenants_of(touched)))
    kept = {**good, **{file.name: file.text for file in (*fallback, *vanished)}}
    return Loaded(fleet, second.origins, second.texts, first.problems, second.warnings, kept)


def _parsed(texts: Mapping[str, str], names: set[str]) -> list[SourceFile]:
    return [
        parse_file(name, texts[name].encode(), folder=Path(name).parent)
        for name in sorted(names & texts.keys())
    ]


def _vanished(
    last_good: Mapping[str, str], present: set[str], broken: set[str]
) -> list[SourceFile]:
    """Files that are gone while another is broken that was never good: perhaps it was renamed
    and broken at once, so what the vanished one declared must not be deleted yet.
    """
    if not broken - last_good.keys():
        return []
    return _parsed(last_good, set(last_good) - present)


def _tenants_of(files: Iterable[SourceFile]) -> set[str]:
    return {
        tenant
        for file in files
        for document, _ in file.documents
        if (tenant := tenant_of(document.address))
    }


@dataclass(frozen=True, slots=True)
class _Combined:
    documents: tuple[AnyDocument, ...]
    fleet: Fleet
    origins: Mapping[ResourceAddress, Origin]
    texts: Mapping[str, str]
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def _combine(files: list[SourceFile]) -> _Combined:
    problems = [problem for file in files for problem in file.problems]
    origins: dict[ResourceAddress, Origin] = {}
    documents: list[AnyDocument] = []
    for file in files:
        for document, origin in file.documents:
            before = origins.get(document.address)
            if before is not None:
                problems.append(_duplicate(document, origin, before))
                continue
            origins[document.address] = origin
            documents.append(document)
    texts = {file.name: file.text for file in files}
    fleet = Fleet.of(documents)
    loaded = Loaded(fleet, origins, texts, (), (), {})
    findings = check(fleet)
    errors = [loaded.problem_of(entry) for entry in findings if entry.severity == "error"]
    warnings = [loaded.problem_of(entry) for entry in findings if entry.severity == "warning"]
    return _Combined(
        tuple(documents), fleet, origins, texts,
        tuple(sorted({*problems, *errors})), tuple(sorted(warnings)),
    )  # fmt: skip


def _duplicate(document: AnyDocument, origin: Origin, before: Origin) -> Problem:
    return Problem(
        origin.file, origin.line, 1,
        f"declared already at {before.file}:{before.line}",
        document.address, "", "remove one of the two",
    )  # fmt: skip
