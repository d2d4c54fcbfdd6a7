"""Models of speech recognition."""

from __future__ import annotations

from typing import Annotated

import typer

from earmark.cli._common import Data, settings

app = typer.Typer(
    help="Install models of speech recognition.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("install")
def models_install(
    name: Annotated[str, typer.Argument(help="Which one; `earmark models list` names them.")],
    data: Data = None,
) -> None:
    """Fetch a model, check it, and have it used by all data folders of this user."""
    from earmark.speech.models import install

    folder = install(settings(data).models_folder, name, lambda told: typer.echo(told, err=True))
    typer.echo(folder)


@app.command("list")
def models_list(data: Data = None) -> None:
    """List the models that are installed, and those that can be."""
    from earmark.speech.models import MODELS, installed

    there = {path.name for path in installed(settings(data).models_folder)}
    for name in sorted({*there, *MODELS}):
        about = MODELS[name].about if name in MODELS else "of your own"
        typer.echo(f"{name}  {'installed' if name in there else 'not installed'}  {about}")


@app.command("path")
def models_path(data: Data = None) -> None:
    """Print the folder in which models are."""
    typer.echo(settings(data).models_folder)
