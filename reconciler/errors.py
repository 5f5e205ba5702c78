"""The error tree every part raises; only the command line turns it into exit codes.

::

    MetaldError              what went wrong, where (subject), what to do (hint)   exit 1
    ├── SpecError            the specs are wrong; carries every problem found      exit 1
    ├── RefusedError         correct request, refused: lock, guard, stale plan     exit 4
    ├── UnknownStateError    something could not be observed (law 1)               exit 1
    ├── TransientError       the outside world failed; trying later may help       exit 1
    ├── DriverError          a hypervisor answered with an error                   exit 1
    ├── VerifyError          applied, but the world differs from the plan          exit 3
    └── BugError             an invariant of ours broke                            exit 1
"""

from __future__ import annotations

from dataclasses import dataclass, replace

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_CHANGES = 2
EXIT_PARTIAL = 3
EXIT_REFUSED = 4


class MetaldError(Exception):
    """An error an operator can act on.

    ``message`` says what happened and why, ``subject`` where (a resource address, file or
    socket), ``hint`` what to do about it.
    """

    exit_code = EXIT_FAILED

    def __init__(self, message: str, *, subject: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.subject = subject
        self.hint = hint

    def __str__(self) -> str:
        """One paragraph: where, what, why, what to do."""
        where = f"{self.subject}: " if self.subject else ""
        remedy = f" ({self.hint})" if self.hint else ""
        return f"{where}{self.message}{remedy}"


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One defect of a spec file; ``line`` and ``column`` count from 1, 0 when unknown."""

    file: str
    line: int
    column: int
    message: str
    resource: str = ""
    field: str = ""
    hint: str = ""

    def __str__(self) -> str:
        """``file:line:column: resource: field: what (what to do)``."""
        parts = [f"{self.file}:{self.line}:{self.column}", self.resource, self.field, self.message]
        text = ": ".join(part for part in parts if part)
        return f"{text} ({self.hint})" if self.hint else text

    def named_within(self, folder: str) -> Problem:
        """The same, its file (and others it speaks of) named by their path inside ``folder``."""
        if not folder:
            return self
        prefix = f"{folder}/"
        message = self.message.replace(prefix, "")
        return replace(self, file=self.file.removeprefix(prefix), message=message)


class SpecError(MetaldError):
    """The specs cannot be used; ``problems`` holds every defect of the run."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        count = len(problems)
        super().__init__(f"{count} problem{'s' if count != 1 else ''} in the specs")
        self.problems = problems

    def __str__(self) -> str:
        """One paragraph per problem, then the count."""
        return "\n".join([*(str(problem) for problem in self.problems), self.message])


class RefusedError(MetaldError):
    """A well-formed request that must not be carried out now; nothing was changed."""

    exit_code = EXIT_REFUSED


class UnknownStateError(MetaldError):
    """A fact could not be observed; law 1 forbids reading it as absence."""


class TransientError(MetaldError):
    """The outside world failed in a way that may pass; only the loop decides on retries."""


class DriverError(MetaldError):
    """A hypervisor refused or failed an operation."""


class VerifyError(MetaldError):
    """An apply finished, but observing again still finds differences."""

    exit_code = EXIT_PARTIAL


class BugError(MetaldError):
    """An invariant of metald itself does not hold; please report it."""
