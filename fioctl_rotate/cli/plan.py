"""`plan`: show a plan's file, which somebody else may have written."""

import itertools

from fioctl_rotate.cli import common
from fioctl_rotate.cli.common import Result
from fioctl_rotate.cli.output import result_stream
from fioctl_rotate.cli.plan_view import plan_document, plan_lines, push_lines
from fioctl_rotate.cli.planning import PlanArgument
from fioctl_rotate.errors import Refused

app = common.group("Show a plan that a dry run wrote.")


@app.command("show", epilog="Example: fioctl-rotate plan show plan.toml")
def show(plan_file: PlanArgument) -> Result:
    """Show a plan as the dry run did, and say whether it is intact; the Factory is not asked.

    Exit code 5 if the file was edited. Review this output, not the file. Give the digest to the person or job that
    applies the plan: `apply --digest`.
    """
    from fioctl_rotate.ops.plan_file import read_plan

    read = read_plan(plan_file)
    to_push = push_lines(read.plan, plan_file) if read.intact else ()
    return Result(
        {"intact": read.intact, **plan_document(read.plan)},
        itertools.chain(plan_lines(read.plan, result_stream()), to_push),
        notes=["the plan is intact"] if read.intact else [],
        error=None if read.intact else EDITED,
    )


@app.command("digest", epilog="Example: fioctl-rotate plan digest plan.toml")
def digest(plan_file: PlanArgument) -> Result:
    """Print only a plan's digest, for the job that applies the plan.

    Exit code 5, and no digest, if the file was edited.
    """
    from fioctl_rotate.ops.plan_file import read_plan

    read = read_plan(plan_file)
    if not read.intact:
        raise EDITED
    return Result({"digest": read.plan.digest}, [read.plan.digest])


EDITED = Refused(
    "the plan was edited after it was written", hint="a new dry run makes a plan that can be trusted"
)
