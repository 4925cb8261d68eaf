from __future__ import annotations

from pathlib import Path

import orjson

from engine.sandbox.functions.runtime import FunctionSpec
from tests.support import wait_for, whole_path

FUNCTIONS = (FunctionSpec("Dynamo", "accept"), FunctionSpec("Other", "accept"))
ARN = "arn:aws:lambda:us-east-1:123456789012:function:"


def test_the_originals_setup_works_as_it_is(tmp_path: Path) -> None:
    """functionCfg and the original's variables alone start the engine; the function gets the original's payload."""
    with whole_path(tmp_path, functions=FUNCTIONS) as path:
        path.environment.update(
            REDIS_MASTER_HOST="127.0.0.1",
            REDIS_MASTER_PORT=str(path.server.port),
            REDIS_SUB_CHANNEL="__key*__:*",
            META_MAP_SUFFIX="__meta_record__",
            SUPPORTED_COMMANDS="hset",
            AWS_DEFAULT_REGION="us-east-1",
            ENGINE_SUPERVISION_STATUS_FILE=str(tmp_path / "status.json"),
        )
        (tmp_path / "functionCfg").write_text(
            f"__meta_record__Dynamo|name, __meta_record__Dynamo, pattern, *, lambda, {ARN}Dynamo\n"
        )
        path.config.write_text("")
        path.start()
        path.client.hset("person1", mapping={"firstName": "John", "lastName": "Smith"})
        (record,) = wait_for(path.records, "the record")
        assert record == {
            "id": "person1",
            "obj_name": "person1",
            "body": '{"firstName":"John","lastName":"Smith"}',
        }
        assert not path.client.exists("__meta_record__Dynamo"), "the engine wrote into the user's cache"
        assert path.stop() == 0


def test_a_mapping_hash_reloads_the_routes_at_once(tmp_path: Path) -> None:
    """A mapping that is set, changed or deleted in Redis takes effect without a restart, and is never delivered."""
    with whole_path(tmp_path, functions=FUNCTIONS) as path:
        path.write_config('[original]\nmapping_prefix = "__meta_record__"\n')
        client = path.client
        mapping = {"name": "Carts", "pattern": "cart:", "lambda": ARN + "Dynamo"}
        client.hset("__meta_record__Carts", mapping=mapping)
        path.start()
        client.hset("user:1", "n", 1)
        client.hset("cart:1", "n", 1)
        wait_for(lambda: b"cart:1" in path.last(), "the first mapping")
        client.hset("__meta_record__Users", mapping={"name": "Users", "pattern": "user:", "lambda": ARN + "Other"})
        wait_for(lambda: "__meta_record__Users" in str(path.status().get("routes")), "the new mapping in force")

        def user_arrives() -> bool:
            client.hset("user:2", "n", 2)
            return b"user:2" in path.last()

        wait_for(user_arrives, "the new mapping")
        assert {i["function"] for i in path.invocations() if i["event"]["id"] == "user:2"} == {"Other"}
        client.delete("__meta_record__Carts")
        wait_for(lambda: "__meta_record__Carts" not in str(path.status().get("routes")), "the mapping is gone")
        assert not [key for key in path.last() if key.startswith(b"__meta_record__")]
        assert b"user:1" not in path.last()
        assert path.stop() == 0


def test_a_broken_mapping_keeps_the_old_routes(tmp_path: Path) -> None:
    """A mapping that cannot be used is told with its place; what was in force stays in force."""
    with whole_path(tmp_path, functions=FUNCTIONS) as path:
        path.write_config('[original]\nmapping_prefix = "__meta_record__"\n')
        client = path.client
        client.hset("__meta_record__Carts", mapping={"pattern": "cart:", "lambda": ARN + "Dynamo"})
        path.start()
        client.hset("__meta_record__Bad", mapping={"pattern": "x", "lambda": "not an ARN !"})
        wait_for(lambda: "__meta_record__Bad" in path.log(), "the complaint")
        client.hset("cart:1", "n", 1)
        wait_for(lambda: b"cart:1" in path.last(), "the old route")
        assert "Traceback" not in path.log()
        assert path.stop() == 0


def test_binary_values_are_marked_for_the_original(tmp_path: Path) -> None:
    """What is not UTF-8 comes as base64 with a mark; plain text has no mark that a function could trip over."""
    with whole_path(tmp_path, functions=FUNCTIONS) as path:
        path.write_config('[[routes]]\nname = "all"\nfunction = "Dynamo"\npayload = "original"\n')
        path.start()
        path.client.hset("binary", "f", b"\xff")
        (record,) = wait_for(path.records, "the record")
        assert record["body_encoding"] == "base64"
        assert orjson.loads(record["body"]) == {"Zg==": "/w=="}
