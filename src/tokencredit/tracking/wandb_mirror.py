"""The W&B mirror of a run: the only file that imports wandb."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokencredit.console import say
from tokencredit.errors import UserError
from tokencredit.tracking import outgoing
from tokencredit.tracking.outgoing import answers
from tokencredit.tracking.tracking import Tracking, WandbMode

Row = Mapping[str, Any]

_REMEDY = (
    "set WANDB_API_KEY or run `wandb login`, check the network and WANDB_BASE_URL, "
    "or take tracking.mode=auto, offline, or disabled"
)


class WandbMirror:
    """A copy of a run's log at W&B, and never more than a copy: it fails without the run."""

    def __init__(self, run: Any) -> None:
        """Wrap an open wandb run; None makes a mirror that is off."""
        self._run = run

    @classmethod
    def open(
        cls,
        tracking: Tracking,
        run_dir: Path,
        run_id: str,
        name: str,
        config: Mapping[str, Any],
        history: Sequence[Row] = (),
    ) -> WandbMirror:
        """Return the mirror of the run `run_id`, holding every step of `history`.

        `history` has one row a step, {"step": int, metric: float, ...}, its sample rows under
        "samples". An offline run starts over in one folder and logs all of it; an online one logs
        what the server lacks. Asks for no input, waits at most `tracking.timeout_seconds`, and
        says in one line on stderr why it is not online, which is a UserError with mode online.
        """
        if tracking.mode is WandbMode.disabled:
            return cls(None)
        clean = outgoing.without_secrets(config)
        session = _Session(tracking, Path(run_dir), outgoing.wandb_id(run_id), name, clean)
        try:
            mirror = cls(session.start())
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001 - a run goes on without W&B
            say(f"W&B: off ({outgoing.one_line(error)})")
            return cls(None)
        mirror._relog(history)
        return mirror

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Mirror the metrics of a step."""
        self._guard(lambda run: run.log(dict(metrics), step=step))

    def samples(self, step: int, rows: Sequence[Row]) -> None:
        """Mirror sample rows of a step as a table."""

        def log_table(run: Any) -> None:
            import wandb

            data = [outgoing.table_row(row) for row in rows]
            table = wandb.Table(columns=[*outgoing.TABLE_COLUMNS], data=data)
            run.log({"samples": table}, step=step)

        self._guard(log_table)

    def curves(self, step: int, curves: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
        """Mirror the loss curves of stages before this one as charts, each over its own steps.

        They are logged with `step`, the next of the run. An online run that goes on has them.
        """

        def log_charts(run: Any) -> None:
            import wandb

            if run.starting_step > 0:
                return
            for name, curve in curves.items():
                points = [list(point) for point in zip(curve["step"], curve["loss"], strict=True)]
                table = wandb.Table(columns=["step", "loss"], data=points)
                chart = wandb.plot.line(table, "step", "loss", title=f"training loss: {name}")
                run.log({f"stage/{name}/curve": chart}, step=step)

        self._guard(log_charts)

    def finish(self, summary: Mapping[str, Any], exit_code: int = 0) -> None:
        """Write `summary` and close; uploading is given up after `tracking.timeout_seconds`."""

        def close(run: Any) -> None:
            run.summary.update(dict(summary))
            run.finish(exit_code=exit_code)
            _tear_down()  # a finished offline run is on the disk only once wandb's service ends

        self._guard(close)
        self._run = None

    def _relog(self, history: Sequence[Row]) -> None:
        for row in history:
            if self._run is None or row["step"] < self._run.starting_step:
                continue
            metrics = {key: x for key, x in row.items() if key not in ("step", "samples")}
            self.log(row["step"], metrics)
            if row.get("samples"):
                self.samples(row["step"], row["samples"])

    def _guard(self, action: Callable[[Any], None]) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:  # noqa: BLE001 - a run goes on without W&B
            self._run = None
            say(f"W&B: off ({outgoing.one_line(error)}); the run goes on")
            _tear_down()


@dataclass(slots=True, frozen=True)
class _Session:
    """Everything `wandb.init` is told."""

    tracking: Tracking
    run_dir: Path
    run_id: str
    name: str
    config: dict[str, Any]

    def start(self) -> Any:
        """Return an open run, or None where the user's own W&B settings disable it."""
        if self.tracking.mode is not WandbMode.offline:
            try:
                return self._online(time.monotonic() + self.tracking.timeout_seconds)
            except Exception as error:
                if self.tracking.mode is WandbMode.online:
                    rule = f"{outgoing.one_line(error)}; {_REMEDY}"
                    raise UserError(f"tracking.mode = 'online': {rule}") from error
                if _quiet_session().settings.mode == "disabled":
                    return None
                say(f"W&B: offline ({outgoing.one_line(error)}), in {self.run_dir / 'wandb'}")
        _remove(self._folders("offline-run"))
        return self._init("offline", self.tracking.timeout_seconds)

    def _online(self, deadline: float) -> Any:
        """Return an online run; raises ConnectionError or whatever wandb does."""
        _check_way(self.tracking.mode, deadline)
        earlier = self._folders("run")
        try:
            run = self._init("online", max(deadline - time.monotonic(), 1.0))
        except Exception:
            _tear_down()  # else wandb's service holds the run id against the offline run
            _remove(self._folders("run") - earlier)
            raise
        _remove(self._folders("offline-run"))
        return run

    def _init(self, mode: str, timeout_seconds: float) -> Any:
        import wandb

        _quiet_session()
        self.run_dir.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            save_code=False,
            x_save_requirements=False,
            init_timeout=timeout_seconds,
            finish_timeout=self.tracking.timeout_seconds,
        )
        return wandb.init(
            mode=mode,  # type: ignore[arg-type]
            project=self.tracking.project,
            entity=self.tracking.entity,
            tags=self.tracking.tags,
            group=self.tracking.group,
            job_type=self.tracking.job_type,
            id=self.run_id,
            name=self.name,
            config=self.config,
            dir=str(self.run_dir),
            resume="allow",
            reinit="create_new",
            settings=settings,
        )

    def _folders(self, kind: str) -> set[Path]:
        return set((self.run_dir / "wandb").glob(f"{kind}-*-{self.run_id}*"))


def _quiet_session() -> Any:
    """Return wandb's session of this process, which prints nothing."""
    # Where there is no network, wandb's own crash reports keep the process waiting for it.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    return wandb.setup(settings=wandb.Settings(silent=True))


def _remove(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def check_key(tracking: Tracking) -> None:
    """Raise `UserError` where a run must be online and no key is configured; asks no server."""
    if tracking.mode is not WandbMode.online:
        return
    try:
        _check_key(_quiet_session().settings)
    except Exception as error:
        rule = f"{outgoing.one_line(error)}; {_REMEDY}"
        raise UserError(f"tracking.mode = 'online': {rule}") from error


def _check_key(settings: Any) -> None:
    """Raise ConnectionError without a key, or whatever wandb does about one that is malformed."""
    from wandb.sdk.lib import wbauth

    # Environment, netrc, settings files: the places where wandb itself looks, without its prompt.
    key = wbauth.authenticate_session(
        host=settings.base_url, source="tokencredit", prompt=False, update_session=False
    )
    if key is None:
        raise ConnectionError("no API key is configured")


def _check_way(mode: WandbMode, deadline: float) -> None:
    """Raise ConnectionError naming what stands in the way of going online, if anything does."""
    settings = _quiet_session().settings
    if mode is WandbMode.auto and settings.mode in ("offline", "dryrun", "disabled"):
        raise ConnectionError(f"W&B's own settings say {settings.mode}")
    _check_key(settings)
    if not answers(settings.base_url, max(deadline - time.monotonic(), 0.0)):
        raise ConnectionError(f"{settings.base_url} does not answer")


def _tear_down() -> None:
    import wandb

    # It may raise because its service died, or exit because the service failed.
    with contextlib.suppress(Exception, SystemExit):
        wandb.teardown()
