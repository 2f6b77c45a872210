"""Keys, tokens and passwords."""

from __future__ import annotations

import functools
import importlib
import math
import re
from collections import Counter
from collections.abc import Iterator

from llamafarm_ray.text.pii.finding import Finding

__all__ = ["find_secrets"]

# Plugins of detect-secrets whose patterns stand for themselves; its scanner would need files and settings.
_PLUGINS = (
    "aws.AWSKeyDetector",
    "azure_storage_key.AzureStorageKeyDetector",
    "basic_auth.BasicAuthDetector",
    "discord.DiscordBotTokenDetector",
    "github_token.GitHubTokenDetector",
    "gitlab_token.GitLabTokenDetector",
    "jwt.JwtTokenDetector",
    "mailchimp.MailchimpDetector",
    "openai.OpenAIDetector",
    "pypi_token.PypiTokenDetector",
    "sendgrid.SendGridDetector",
    "slack.SlackDetector",
    "square_oauth.SquareOAuthDetector",
    "stripe.StripeDetector",
    "telegram_token.TelegramBotTokenDetector",
)
# Formats that its release 1.5 lacks: each vendor's documented prefix.
_PREFIXED = re.compile(
    r"\b(?:github_pat_\w{22,}|sk-(?:ant|proj|svcacct)-[\w-]{20,}|sk-[A-Za-z0-9]{32,}|hf_[A-Za-z0-9]{30,}|AIza[\w-]{35}"
    r"|npm_[A-Za-z0-9]{36}|xapp-[\w-]{20,}|dop_v1_[0-9a-f]{64}|ya29\.[\w-]{20,}"
    r"|(?:sk|rk|pk)_(?:live|test)_[0-9A-Za-z]{16,})"
)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----(?:.*?-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----)?",
    re.DOTALL,
)
_IS = r"(?:\s*(?:=|:|\uff1a)\s*|\s+(?:is|was|to|ist|lautet|est|es|\u00e9|e|on)\s*:?\s+|\s*(?:\u662f|\u306f)\s*)"
_OF = r"(?:\s+(?:for|of|to|on|in|at|von|f\u00fcr|de|du|del|pour)\s+(?:[\w'\u2019.-]+\s+){0,3}?[\w'\u2019.-]+)?"
_PASSWORD = re.compile(
    r"(?i)(?:\b(?:pass(?:word|phrase|code|wd)|pwd|passwort|kennwort|mot de passe|contrase\u00f1a|senha|wachtwoord)\b"
    rf"|\u043f\u0430\u0440\u043e\u043b\u044c|\u5bc6\u7801|\u30d1\u30b9\u30ef\u30fc\u30c9)[\"'`]?{_OF}{_IS}"
    r"(?P<open>[\"'`\u201c\u2018]?)(?P<secret>[^\s\"'`\u201d\u2019]{4,})"
)
_KEY = re.compile(
    r"(?i)\b(?:api|access|secret|auth|private|client)[ _-]?(?:key|token|secret)[\"'`]?"
    r"(?:\s*(?:=|:)\s*|\s+is\s+)[\"'`]?(?P<secret>[\w+/=.-]{16,})"
)
_PLACEHOLDER = re.compile(r"(?i)^[<\[{$%(*]|[>\]}*]$|^(?:x+|\.+|your.*|example.*|changeme|redacted)$|://|\(\)")
_MIN_ENTROPY_BITS = 3.0


def find_secrets(text: str) -> Iterator[Finding]:
    """Yield API keys and tokens of known form, private keys, and passwords that are told ("password is hunter2")."""
    for pattern in (_PRIVATE_KEY, _PREFIXED, *_vendor_patterns()):
        for match in pattern.finditer(text):
            start, end = match.span(match.lastindex or 0) if pattern.groups == 1 and match[1] else match.span()
            yield Finding("secret", start, end)
    for match in _PASSWORD.finditer(text):
        end = match.start("secret") + len(match["secret"].rstrip(".,;:!?)"))
        secret = text[match.start("secret") : end]
        if _is_password(secret, quoted=bool(match["open"])):
            yield Finding("secret", match.start("secret"), end)
    for match in _KEY.finditer(text):
        if _is_random(match["secret"].rstrip(".")):
            yield Finding("secret", match.start("secret"), match.start("secret") + len(match["secret"].rstrip(".")))


def _is_password(secret: str, *, quoted: bool) -> bool:
    """Return True if a word behind "password is" is one: with a digit, sign or odd capital in it, or in quotes."""
    if len(secret) < 4 or _PLACEHOLDER.search(secret):
        return False
    if quoted:
        return True
    has_letter = any(character.isalpha() for character in secret)
    has_digit = any(character.isdigit() for character in secret)
    if re.fullmatch(r"(?:[^\W\d_]+[-/])+[^\W\d_]+|\d+-[^\W\d_]+|[^\W\d_]+(?:'[^\W\d_]+)?|\d{1,3}", secret):
        # "case-sensitive", "12-character", "required"; a capital inside as in "correctHorse" tells
        return bool(re.search(r"[a-z][A-Z]", secret))
    return (has_letter and has_digit) or bool(re.search(r"[^\w.,;:/()-]", secret)) or secret.isdigit()


def _is_random(secret: str) -> bool:
    """Return True if a text has letters, digits and the entropy of a key, in bits per character."""
    if not re.search(r"\d", secret) or not re.search(r"[A-Za-z]", secret):
        return False
    counts = Counter(secret)
    entropy = -sum(count / len(secret) * math.log2(count / len(secret)) for count in counts.values())
    return entropy >= _MIN_ENTROPY_BITS


@functools.cache
def _vendor_patterns() -> tuple[re.Pattern[str], ...]:
    found: list[re.Pattern[str]] = []
    for plugin in _PLUGINS:
        module, name = plugin.split(".")
        found += getattr(importlib.import_module(f"detect_secrets.plugins.{module}"), name).denylist
    return tuple(found)
