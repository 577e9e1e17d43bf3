"""The shape of every command: one paragraph of help, and an example that can be typed."""

from typing import Any

import click

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Verb(click.Command):
    """A command whose help ends with an example."""

    def __init__(self, *arguments: Any, example: str, **settings: Any) -> None:
        settings.setdefault("context_settings", CONTEXT)
        super().__init__(*arguments, **settings)
        self.example = example

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The example, a line each as it is written."""
        write_example(formatter, self.example)
        super().format_epilog(ctx, formatter)


def write_example(formatter: click.HelpFormatter, example: str) -> None:
    """An ``Example`` section that is not re-wrapped."""
    with formatter.section("Example"):
        for line in example.strip().splitlines():
            formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
