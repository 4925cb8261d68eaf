"""What a connection's failures mean, and what the user can do about each.  (pure)"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable, Sequence

from engine.errors import RedisClosed, RedisError, RedisRefused, RedisUnreachable

_LASTING_WORDS = frozenset({"ERR", "NOPERM", "NOAUTH", "NOPROTO", "WRONGPASS", "DENIED"})
"""The beginnings of refusals that only the user can fix; all others pass: ``LOADING``, ``OOM``, ``NOREPLICAS``, …"""
_RETRY_WORDS = frozenset(
    {"LOADING", "MASTERDOWN", "BUSY", "TRYAGAIN", "CLUSTERDOWN", "OOM", "NOREPLICAS", "MISCONF", "READONLY"}
)
_DENIED_COMMAND = re.compile(r"permissions to run the '([^']+)'")
_HINTS = {
    "WRONGPASS": "check redis.username and redis.password, or the files or the environment that they come from",
    "NOAUTH": "the server requires a password: set ENGINE_REDIS_PASSWORD or redis.password_file",
    "NOPROTO": "the server is too old for RESP3: Redis 6 or later, or Valkey, is needed",
    "DENIED": "the server is in protected mode: give it a password, or bind it to this network",
}


def passes(reply: str) -> bool:
    """Tell whether a refusal may pass by itself."""
    return _word(reply) not in _LASTING_WORDS


def _word(reply: str) -> str:
    return reply.split(" ", 1)[0].lstrip("-")


def refusal(address: object, what: str, reply: str, hint: str = "") -> RedisError:
    """Return the error for a server's refusal, with the remedy that fits; some refusals pass by themselves.

    ``hint`` is the remedy for wrong credentials, if the caller knows more about them.
    """
    word = _word(reply)
    if word in _RETRY_WORDS:
        return RedisUnreachable(f"{address} is not ready: {reply}", hint="it is retried")
    remedy = hint if hint and word == "WRONGPASS" else _hint(word, reply)
    return RedisRefused(f"{address} refused to {what}: {reply}", hint=remedy)


def _hint(word: str, reply: str) -> str:
    if word == "NOPERM":
        return _missing_right(reply)
    if "without any password configured" in reply or "no password is set" in reply:
        return "the server has no password: remove the one that is configured"
    if "max number of clients" in reply:
        return "raise the server's maxclients, or end other clients"
    if "unknown command" in reply.lower():
        return "the server is too old: Redis 6 or later, or Valkey, is needed"
    if "DB index is out of range" in reply:
        return "redis.url or redis.databases names one that the server does not have: see its setting databases"
    return _HINTS.get(word, "see the server's log")


def denied_command(reply: str) -> str:
    """Return the command that this refusal says the user may not run; "" if it says no such thing."""
    denied = _DENIED_COMMAND.search(reply)
    return denied[1] if denied else ""


def denial(consequence: str, replies: Iterable[object]) -> str:
    """Return a warning that names the commands which these replies deny, "" if they deny none."""
    texts = [str(reply) for reply in replies if isinstance(reply, Exception)]
    denied = dict.fromkeys(command for text in texts if (command := denied_command(text)))
    if not denied:
        return ""
    rights = " ".join(f"+{command}" for command in denied)
    return f"the user may not run {', '.join(denied)}, {consequence}: grant it: ACL SETUSER <user> {rights}"


def _missing_right(reply: str) -> str:
    denied = denied_command(reply)
    if denied:
        return f"grant it: ACL SETUSER <user> +{denied}"
    if "channel" in reply:
        # The user's channels must contain a pattern literally, and our patterns follow the keys.
        return "grant it: ACL SETUSER <user> allchannels"
    if "key" in reply:
        return "grant the user the keys that the engine reads: ACL SETUSER <user> allkeys"
    return "grant the right to this user: ACL SETUSER <user> +<command>"


def no_connection(address: object, error: Exception, timeout_s: float) -> RedisUnreachable:
    """Return the error for a connection that could not be made."""
    if isinstance(error, TimeoutError):
        return RedisUnreachable(
            f"{address} did not answer within {timeout_s:g} s",
            hint="is redis.url right, and does a firewall or security group let us through?",
        )
    why = getattr(error, "strerror", None) or error
    return RedisUnreachable(f"cannot connect to {address}: {why}", hint="is the server running, and redis.url right?")


def tls_failure(address: object, error: Exception) -> RedisError:
    """Return the error for a handshake that failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return RedisRefused(
            f"the certificate of {address} is not accepted: {error.verify_message}",
            hint="redis.tls_ca_file has to name the authority that signed it, and redis.url a name in it",
        )
    if isinstance(error, TimeoutError):
        why = "no answer to the handshake"
    else:
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return RedisUnreachable(
        f"no TLS with {address}: {why}", hint="does this port speak TLS? If not, write redis:// in redis.url"
    )


def lost(address: object, error: OSError | None, timeout_s: float | None, hint: str) -> RedisUnreachable:
    """Return the error for a connection that broke, or is silent for too long."""
    if isinstance(error, TimeoutError):
        return RedisUnreachable(f"{address} did not answer within {timeout_s or 0:g} s", hint=hint)
    why = f": {error.strerror or error}" if error else " by the server"
    return RedisClosed(f"the connection to {address} was closed{why}", hint=hint)


def not_redis(address: object, error: Exception) -> RedisUnreachable:
    """Return the error for bytes that are not Redis protocol."""
    return RedisUnreachable(
        f"what answers at {address} does not speak the Redis protocol: {error}",
        hint="is redis.url right? It has to name the server's own port, not an HTTP or management port",
    )


def nobody_answers(what: str, problems: Sequence[RedisError], hint: str) -> RedisError:
    """Return the error for several servers none of which can be used: what is to be fixed, if all of them say so."""
    if problems and all(isinstance(problem, RedisRefused) for problem in problems):
        return problems[0]
    told = "; ".join(dict.fromkeys(error.message for error in problems))
    return RedisUnreachable(f"{what}: {told}", hint=hint)


def wrong_role(address: object, role: str) -> RedisUnreachable:
    """Return the error for a server that is a replica instead of the primary, or the reverse."""
    found, wanted = ("replica", "primary") if role == "master" else ("primary", "replica")
    return RedisUnreachable(f"{address} is a {found}, not the {wanted}", hint="the engine looks for it again")
