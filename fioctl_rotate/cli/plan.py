"""`plan`: what a plan's file says, whoever wrote it."""

from fioctl_rotate.cli import common
from fioctl_rotate.cli.common import Result
from fioctl_rotate.cli.plan_view import plan_document, plan_lines
from fioctl_rotate.cli.planning import PlanArgument
from fioctl_rotate.errors import Refused

app = common.group("Show a plan that a dry run wrote.")


@app.callback()
def _group() -> None:
    # With it typer keeps a group of one command a group.
    pass


@app.command("show", epilog="Example: fioctl-rotate plan show plan.toml")
def show(plan_file: PlanArgument) -> Result:
    """Show a plan as the dry run did, and say whether it is intact; the Factory is not asked.

    Exit code 5 where the file was edited. Review what this shows rather than the file, and give the digest to
    whoever applies it: `apply --digest`.
    """
    from fioctl_rotate.ops.plan_file import read_plan

    read = read_plan(plan_file)
    edited = Refused(
        "the plan was edited after it was written", hint="a new dry run makes a plan that can be trusted"
    )
    return Result(
        {"intact": read.intact, **plan_document(read.plan)},
        plan_lines(read.plan),
        notes=["the plan is intact"] if read.intact else [],
        error=None if read.intact else edited,
    )
