"""Who does the tasks: the user's function, for a batch or for each task, asynchronous or in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeAlias, TypeVar

from session_lock.calling import innermost, name_of, parameters, why_not
from session_lock.errors import SettingsError
from session_lock.tasks import Batch, Discard, Release, Task

T = TypeVar("T")

Tasker: TypeAlias = Callable[[Batch[T]], Awaitable[Iterable[Task[T]]] | Iterable[Task[T]]]
"""`async def tasker(batch)`: returns the tasks that it has accomplished. The others have failed and are tried again.

A plain `def` is called in a thread, so that the event loop stays free.

```python
async def send_all(batch):
    for task in batch:
        print("sent to", task.data["address"])
    return batch
```
"""

AsyncTasker: TypeAlias = Callable[[Batch[T]], Awaitable[Iterable[Task[T]]]]

NOT_ASYNC = "a tasker that is no async function gave something to await: declare it with async def"


class TaskerError(TypeError):
    """What a tasker returned is not what it may return. The message is ours, and holds no data."""


class each(Generic[T]):  # noqa: N801 (reads as a word at the call: Runner(database, each(send)))
    """A tasker for one task a call: a slot refills as soon as it is free.

    `async def send(task)` (or, called in a thread, `def send(task)`) returns None when the task is accomplished, or
    `Release(after=)`, or `Discard(reason)`. What it raises is a failure: the task is tried again later.

    ```python
    async def send(task):
        print("sent to", task.data["address"])

    runner = Runner(database, each(send), Settings(concurrency=50))
    ```
    """

    def __init__(
        self, function: Callable[[Task[T]], Awaitable[Release | Discard | None] | Release | Discard | None]
    ) -> None:
        check(function, "a function under each()", "a task")
        self.function = function
        self._call: Any = in_thread(function) if is_synchronous(function) else function

    async def __call__(self, batch: Batch[T]) -> Iterable[Task[T]]:
        (task,) = batch
        match await awaitable(self._call(task)):
            case None:
                return (task,)
            case Release(after):
                batch.release(task, after=after)
            case Discard(reason):
                batch.discard(task, reason)
            case other:
                raise TaskerError(
                    f"a tasker under each() returns None, Release(after=) or Discard(reason), not {type(other).__name__}"
                )
        return ()


def asynchronous(tasker: Tasker[T]) -> AsyncTasker[T]:
    """The tasker, or its asynchronous face. `SettingsError` says of what can be no tasker why it is none."""
    check(tasker, "the tasker", "a batch")
    found: Any = in_thread(tasker) if is_synchronous(tasker) else tasker
    return found  # type: ignore[no-any-return]


def check(function: Any, what: str, takes: str) -> None:
    """Refuse what is plainly no function for tasks."""
    wanted = f"{what} must be a function (async def, or def for a thread) that takes {takes}"
    if isinstance(function, each) and takes == "a task":
        raise SettingsError(f"{wanted}, not what each() has made of one")
    if not callable(function) or isinstance(function, type):
        kind = function.__name__ if isinstance(function, type) else type(function).__name__
        raise SettingsError(f"{wanted}, not {kind}")
    if inspect.isasyncgenfunction(function):
        raise SettingsError(f"{wanted}: {function.__name__} has a yield; return the tasks instead")
    if wrong := why_not(function, None):
        raise SettingsError(f"{wanted} alone, not {name_of(function)}{parameters(function)}: {wrong}")


def is_synchronous(function: Any) -> bool:
    """Whether calling it does the work. A lambda, or a wrapper of an async function, gives something to await."""
    function = innermost(function)
    if not inspect.isroutine(function) and not inspect.iscoroutinefunction(function):
        function = type(function).__call__
    return _does_the_work(function)


def _does_the_work(function: Any) -> bool:
    if inspect.iscoroutinefunction(function) or getattr(function, "__name__", "") == "<lambda>":
        return False
    return not hasattr(function, "__wrapped__") or _does_the_work(function.__wrapped__)


def awaitable(result: Any) -> Awaitable[Any]:
    """What calling a tasker gave, if it can be awaited."""
    if not inspect.isawaitable(result):
        raise TaskerError(
            "a tasker that is a lambda, or wraps an async function, must give something to await: use def, or async def"
        )
    return result


# In a thread ------------------------------------------------------------------------------------------------


def in_thread(function: Callable[[Any], Any]) -> Callable[[Any], Awaitable[Any]]:
    """The function, called in a thread of its own; awaiting it ends when the thread has ended, and not before.

    A thread cannot be cancelled: a cancellation that came meanwhile is raised if the function fails, and forgotten if
    it succeeds, for then the work is done. Only once nobody waits for the call any more (`leave_behind`) does it end it.
    """
    threads = _Threads(idle=10.0)

    async def call(argument: Any) -> Any:
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        thread = loop.run_in_executor(threads, lambda: context.run(_carried, function, argument))
        cancelled: asyncio.CancelledError | None = None
        while not thread.done():
            try:
                await asyncio.wait({thread})
            except asyncio.CancelledError as error:
                if asyncio.current_task() in _LEFT_BEHIND:
                    thread.cancel()  # nobody is told of its end
                    raise
                cancelled = error
        result, raised = thread.result()
        if raised is None:
            return result
        if cancelled is not None and not isinstance(raised, KeyboardInterrupt | SystemExit):
            raise cancelled from raised
        raise raised

    return call


_LEFT_BEHIND: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()

_THREADS: weakref.WeakKeyDictionary[asyncio.Task[Any], Future[Any]] = weakref.WeakKeyDictionary()


def thread_of(call: asyncio.Task[Any]) -> Future[Any] | None:
    """What ends when the thread that the call hangs in has ended; None if it is in none."""
    thread = _THREADS.get(call)
    return None if thread is None or thread.done() else thread


def leave_behind(call: asyncio.Task[Any]) -> None:
    """The call is waited for no longer. If it hangs in a thread it lets the loop be closed all the same."""
    _LEFT_BEHIND.add(call)


class _Threads(Executor):
    """As many threads as there are calls at once; one that is idle takes the next call, or ends after a while.

    They are daemons, or one that hangs would keep the process from ending.
    """

    def __init__(self, idle: float) -> None:
        self._longest_idle = idle
        self._idle: deque[SimpleQueue[tuple[Future[Any], Callable[[], Any]]]] = deque()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with contextlib.suppress(RuntimeError):  # in no loop it is nobody's call
            if (call := asyncio.current_task()) is not None:
                _THREADS[call] = future
        inbox = None
        with contextlib.suppress(IndexError):
            inbox = self._idle.pop()
        if inbox is None:
            inbox = SimpleQueue()
            threading.Thread(
                target=self._work, args=(inbox,), name="session_lock tasker", daemon=True
            ).start()
        inbox.put((future, functools.partial(function, *args, **kwargs)))
        return future

    def _work(self, inbox: SimpleQueue[tuple[Future[Any], Callable[[], Any]]]) -> None:
        while True:
            try:
                future, call = inbox.get(timeout=self._longest_idle)
            except Empty:
                with contextlib.suppress(ValueError):  # somebody has taken it: a call is coming
                    self._idle.remove(inbox)
                    return
                continue
            result = call() if (wanted := future.set_running_or_notify_cancel()) else None
            self._idle.append(inbox)
            if wanted:
                future.set_result(result)
            del future, call, result  # idle, it keeps no rows


def _carried(function: Callable[[Any], Any], argument: Any) -> tuple[Any, BaseException | None]:
    """Result and exception as values: a future takes no StopIteration, and an exit is no business of the thread's."""
    try:
        result = function(argument)
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise TaskerError(NOT_ASYNC)  # noqa: TRY301 (carried, like what the function raises)
        return (_drawn(result) if isinstance(result, Iterator) else result), None
    except BaseException as error:  # noqa: BLE001 (carried to who awaits)
        return None, error


def _drawn(iterator: Iterator[Any]) -> Iterable[Any]:
    """A generator's work is done here too, in the thread; what it gave before it raised still counts."""
    given: list[Any] = []
    try:
        given.extend(iterator)
    except BaseException as error:  # noqa: BLE001 (raised again where it is looked at)
        return _Interrupted(given, error)
    return given


class _Interrupted:
    def __init__(self, given: list[Any], error: BaseException) -> None:
        self._given = given
        self._error = error

    def __iter__(self) -> Iterator[Any]:
        yield from self._given
        raise self._error
