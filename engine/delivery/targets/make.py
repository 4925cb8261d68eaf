"""Which target a route's ``function`` names."""

from __future__ import annotations

from engine.aws.target_arns import TargetArn, parse_target_arn
from engine.config import AwsSettings, DeliverySettings, RouteSettings
from engine.delivery.requests import Aside
from engine.delivery.sockets import Sockets
from engine.delivery.targets.base import Ended, OnTheLoop, Target
from engine.delivery.targets.batches import BatchTarget
from engine.delivery.targets.flights import Flights
from engine.delivery.targets.lambda_ import LambdaTarget
from engine.errors import Problem

REPORT_ITEM_FAILURES = "ReportBatchItemFailures"


def make_target(route: RouteSettings, aws: AwsSettings, delivery: DeliverySettings) -> Target:
    """Return the route's target; nothing is asked and nothing is opened yet."""
    threads = route.parallelization_factor
    place = parse_target_arn(route.function)
    if place is not None:
        return _batch_target(place, aws, delivery, threads)
    reports = route.payload != "original" and REPORT_ITEM_FAILURES in route.function_response_types
    return LambdaTarget(
        route.function, aws, delivery, report_item_failures=reports, connections_max=threads, route=route.name
    )


def flights_of(target: Target, sockets: Sockets, aside: Aside, ended: Ended) -> OnTheLoop:
    """Return what delivers to a target on the loop that polls these sockets."""
    if isinstance(target, BatchTarget):
        from engine.delivery.targets.batch_flights import BatchFlights

        return BatchFlights(target, sockets, aside, ended)
    assert isinstance(target, LambdaTarget)
    return Flights(target, sockets, aside, ended)


def check_places(places: list[tuple[str, TargetArn]], aws: AwsSettings, delivery: DeliverySettings) -> list[Problem]:
    """Ask for each (place in the settings, stream or queue) whether it exists and may be written."""
    problems: list[Problem] = []
    for place, arn in places:
        target = _batch_target(arn, aws, delivery, 1)
        if problem := target.problem(place):
            problems.append(problem)
        target.close()
    return problems


def _batch_target(place: TargetArn, aws: AwsSettings, delivery: DeliverySettings, threads: int) -> BatchTarget:
    # boto3's models of the services are large: they are loaded only if a route needs them.
    if place.service == "kinesis":
        from engine.delivery.targets.kinesis import KinesisTarget

        return KinesisTarget(place, aws, delivery, threads)
    from engine.delivery.targets.sqs import SqsTarget

    return SqsTarget(place, aws, delivery, threads)
