"""The feature store of a home, with the declarations of its use case applied."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pkgutil
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from feast import (
    FeatureService,
    FeatureStore,
    FeatureView,
    OnDemandFeatureView,
    RepoConfig,
    StreamFeatureView,
)
from feast import __version__ as feast_version
from feast.data_source import DataSource
from feast.entity import Entity

from feature_repo.engine.from_feast import plan_from_feast
from feature_repo.engine.plan import FeaturePlan
from feature_repo.errors import FeatureError
from feature_repo.lake.files import write_whole
from feature_repo.plugins.registry_store import DamagedRegistry, locked, set_aside

# Feast warns each time it reads a declaration. The project pins the versions that it is tested with.
warnings.filterwarnings("ignore", message="(Stream|On demand) feature views are", category=RuntimeWarning)

REPO = Path(__file__).parent
# Modules of declarations, in the order in which Feast is told of their objects. All other modules come
# after these.
DECLARING = ("entities", "sources", "views", "services")
VIEWS = (FeatureView, OnDemandFeatureView)  # A stream view is a FeatureView.
KINDS = (Entity, DataSource, *VIEWS, FeatureService)


class OtherUseCase(FeatureError):
    """The home holds the features of another use case."""

    def __init__(self, home: Path, found: str, wanted: str) -> None:
        super().__init__(
            f"{home}: its feature store belongs to the declarations of {found}, not of {wanted}; a home"
            " belongs to one use case: give the other one a home of its own (MLOPS_HOME)"
        )


class NoDeclarations(FeatureError):
    """A package of declarations does not exist, or declares no feature service."""


class BadDeclaration(FeatureError):
    """Feast refuses a declaration; the message has the file and the line."""


def open_store(home: Path, declarations: str, lake: str | None = None) -> FeatureStore:
    """The feature store of a home, with `declarations` applied.

    `lake` is the place of the lake, where it is not in the home. `declarations` is the package with the Feast
    objects of the use case. They are applied where they changed. Two processes that open a store at once
    apply them one after the other. A damaged registry is set aside, and the last good registry takes its
    place.

    Raises `OtherUseCase` where the home holds other declarations, `NoDeclarations` where the package has
    none, and `BadDeclaration` for one that Feast refuses.
    """
    home = Path(home).absolute()
    modules = _modules(declarations)
    with locked(home / "feast"):
        mark = home / "feast" / "applied"
        owner, applied = _mark(mark)
        if owner and owner != declarations:
            raise OtherUseCase(home, owner, declarations)
        try:
            store = _open(home, lake)
            registered = store.registry.list_feature_services(store.project)
        except DamagedRegistry as damage:
            set_aside(damage.path)
            store, registered = _open(home, lake), []
        digest = _digest(modules)
        if not registered or not owner or applied != digest:
            _apply(store, _declared(modules))
            write_whole(mark, f"{declarations} {digest}".encode())
    return store


def declared_plan(declarations: str, service: str, joined_by: Mapping[str, str]) -> FeaturePlan:
    """The plan of a feature service as the package declares it, without a home and without a registry.

    `joined_by` is that of `plan_from_feast`. Raises `NoDeclarations` where the package or the service is not
    there, `BadDeclaration` for what Feast refuses, and `PlanError` for what the engine cannot compute.
    """
    declared = _declared(_modules(declarations))
    services = {one.name: one for one in declared if isinstance(one, FeatureService)}
    if service not in services:
        raise NoDeclarations(
            f"{declarations}: no FeatureService is named {service!r}; there is {', '.join(services)}"
        )
    store = SimpleNamespace(
        get_feature_service=services.__getitem__,
        list_stream_feature_views=lambda: [one for one in declared if isinstance(one, StreamFeatureView)],
        list_on_demand_feature_views=lambda: [
            one for one in declared if isinstance(one, OnDemandFeatureView)
        ],
    )
    return plan_from_feast(store, service, joined_by)


def _mark(path: Path) -> tuple[str, str]:
    """The package whose declarations were applied, and their digest. Older homes have no package."""
    owner, _, digest = path.read_text().strip().rpartition(" ") if path.exists() else ("", "", "")
    return owner, digest


def _open(home: Path, lake: str | None) -> FeatureStore:
    import yaml

    settings = yaml.safe_load((REPO / "feature_store.yaml").read_text())
    settings["registry"]["path"] = str(home / "feast" / "registry.db")
    settings["offline_store"] |= {"home": str(home), "lake": lake}
    settings["online_store"]["home"] = str(home)
    config = RepoConfig(**settings)
    config.repo_path = REPO
    return FeatureStore(config=config)


def _apply(store: FeatureStore, declared: list[Any]) -> None:
    """Apply everything that is declared, and remove what is no longer declared."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # Stream and on-demand views are experimental
        kept = {
            (isinstance(o, FeatureService), o.name)
            for o in declared
            if isinstance(o, (*VIEWS, FeatureService))
        }
        registered: list[Any] = [*store.list_all_feature_views(), *store.list_feature_services()]
        gone = [o for o in registered if (isinstance(o, FeatureService), o.name) not in kept]
        store.apply(declared, objects_to_delete=gone, partial=False)


def _modules(declarations: str) -> list[ModuleType]:
    """The package and its modules."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            package = _imported(declarations)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{declarations}.".startswith(f"{error.name}."):
                raise
            raise NoDeclarations(f"{declarations}: no such package of feature declarations") from error
        names = [found.name for found in pkgutil.iter_modules(getattr(package, "__path__", ()))]
        ordered = [*(n for n in DECLARING if n in names), *(n for n in names if n not in DECLARING)]
        return [package, *(_imported(f"{declarations}.{name}") for name in ordered)]


def _imported(module: str) -> ModuleType:
    """The module; `BadDeclaration` with the line at which Feast refuses a declaration of it."""
    try:
        return importlib.import_module(module)
    except ValueError as error:
        spec = importlib.util.find_spec(module)
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if spec and frame.filename == spec.origin]
        place = f"{spec.origin}, line {lines[-1]}" if spec and lines else module
        raise BadDeclaration(f"{place}: {error}") from error


def _declared(modules: list[ModuleType]) -> list[Any]:
    """Each Feast object of the modules once."""
    objects = {id(o): o for module in modules for o in vars(module).values() if isinstance(o, KINDS)}
    if not any(isinstance(o, FeatureService) for o in objects.values()):
        raise NoDeclarations(f"{modules[0].__name__}: no module of it declares a FeatureService")
    return list(objects.values())


def _digest(modules: list[ModuleType]) -> str:
    """A digest of the declarations. A change of a file, or of Feast, applies them again."""
    files = sorted({module.__file__ for module in modules if module.__file__})
    content = [feast_version, *(Path(file).read_text() for file in files)]
    return hashlib.sha256("\0".join(content).encode()).hexdigest()
