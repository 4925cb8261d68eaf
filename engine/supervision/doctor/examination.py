"""All examinations of the doctor, as findings that do not keep an engine from starting."""

from __future__ import annotations

from engine.errors import EngineError
from engine.routing.routes import RouteTable
from engine.supervision.doctor.functions import function_findings
from engine.supervision.doctor.host import host_findings
from engine.supervision.doctor.server import server_findings
from engine.supervision.errands.findings import Finding, Verdict, finding
from engine.supervision.errands.plan import Examination


def diagnose(examined: Examination) -> list[Finding]:
    """Return what was found about this host, the server's nodes and the functions, beyond what was examined before.

    What did not answer then is not asked again.
    """
    settings, findings = examined.settings, examined.findings
    found = host_findings(settings)
    if not any(one.verdict is Verdict.ERROR and one.problem.place == "redis" for one in findings):
        try:
            found += server_findings(settings)
        except EngineError as error:
            found.append(finding(Verdict.NOTE, "server", f"its limits were not looked at: {error.message}", error.hint))
    if not any(one.problem.passes or (one.problem.place == "functions" and one.problem.hint) for one in findings):
        plan = examined.plan
        routes = settings.routes if plan is None else tuple(RouteTable.decode(plan.table).routes.values())
        found += function_findings(settings, routes)
    return found
