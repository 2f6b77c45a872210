"""Alerts reach real servers, and broken ones don't hold up the run."""

import datetime as dt
import email
import logging
import math
import pickle
import ssl

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from webhook_server import WebhookServer

from llamafarm_ray.clusters.ports import free_port
from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import UserError
from llamafarm_ray.training.monitoring.alerts import (
    Alert,
    Delivery,
    Destinations,
    EmailChannel,
    LogChannel,
    Notice,
    WebhookChannel,
)

ALERT = Alert(
    "loss_threshold", 724, "The loss rose to 1.404, 0.267 above its lowest, 1.137 (limit 0.25).", 1.404, 1.387
)
NOTICE = Notice(ALERT, "support-bot", "run-1", stops=True)


def test_a_webhook_gets_text_for_people_and_the_alert_for_programs():
    with WebhookServer() as hook:
        WebhookChannel(hook.url).send(NOTICE)
    [body] = hook.bodies
    assert body["text"].startswith("*llamafarm run support-bot: loss threshold at step 724*\nThe loss rose to 1.404")
    assert "ends early" in body["text"]
    assert body["alert"] == {"kind": "loss_threshold", "step": 724, "text": ALERT.text, "value": 1.404, "limit": 1.387}
    assert body["run"] == {"name": "support-bot", "id": "run-1"}


def test_a_number_that_is_none_travels_as_text():
    with WebhookServer() as hook:
        WebhookChannel(hook.url).send(Notice(Alert("nan", 1, "x", math.nan), "r", "1"))
    assert hook.bodies[0]["alert"]["value"] == "nan"


def test_a_webhook_that_is_at_fault_is_tried_again_and_one_that_refuses_is_not():
    with WebhookServer(503, 429, 200) as hook:
        WebhookChannel(hook.url, waits_s=(0, 0, 0)).send(NOTICE)
    assert len(hook.bodies) == 3
    with WebhookServer(404) as hook, pytest.raises(OSError, match="status 404"):
        WebhookChannel(hook.url, waits_s=(0, 0, 0)).send(NOTICE)
    assert len(hook.bodies) == 1
    with WebhookServer(*[500] * 9) as hook, pytest.raises(OSError, match="status 500"):
        WebhookChannel(hook.url, waits_s=(0, 0, 0)).send(NOTICE)
    assert len(hook.bodies) == 3


def test_a_webhook_that_does_not_answer_is_given_up_and_its_secret_not_shown():
    with WebhookServer(hangs=True) as hook:
        channel = WebhookChannel(hook.url, waits_s=(0, 0), timeout_s=0.2)
        with pytest.raises(OSError, match="ReadTimeout") as raised:
            channel.send(NOTICE)
    assert "SECRET" not in f"{raised.value} {channel!r} {channel.name}"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A key and a certificate for localhost that signs itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("certificate")
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder


class Mailbox:
    def __init__(self):
        self.mails = []

    async def handle_DATA(self, _server, session, envelope):
        self.mails.append((envelope, session))
        return "250 OK"


@pytest.fixture
def mail_server(certificate, monkeypatch):
    """A real SMTP server that wants STARTTLS and a login, and whose certificate this process trusts."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))

    def login(server, session, envelope, mechanism, data):
        is_right = isinstance(data, LoginPassword) and (data.login, data.password) == (b"bot", b"pass word")
        return AuthResult(success=is_right, handled=is_right)

    box = Mailbox()
    controller = Controller(
        box, hostname="localhost", port=free_port(), tls_context=context, require_starttls=True,
        authenticator=login, auth_required=True,
    )  # fmt: skip
    controller.start()
    yield box, controller.port
    controller.stop()


def mail_settings(port, **changes):
    values = {
        "to": ["ops@example.org", "lead@example.org"], "sender": "llamafarm@example.org", "server": "localhost",
        "port": port, "username": "bot", "password_env": "MAIL_PASSWORD", **changes,
    }  # fmt: skip
    return parse_config({"monitoring": {"alerting": {"email": values}}}).monitoring.alerting


def test_an_alert_is_mailed_over_starttls_with_a_login(mail_server):
    box, port = mail_server
    found = Destinations.find(mail_settings(port), {"MAIL_PASSWORD": "pass word"})
    [_, channel] = found.channels()
    channel.send(NOTICE)
    [(envelope, session)] = box.mails
    assert session.ssl is not None
    assert envelope.rcpt_tos == ["ops@example.org", "lead@example.org"]
    mail = email.message_from_bytes(envelope.content)
    assert mail["Subject"] == "llamafarm run support-bot: loss threshold at step 724"
    assert "0.267 above its lowest" in mail.get_payload()
    assert "pass word" not in f"{found!r} {channel!r}"


def test_a_wrong_password_is_not_tried_again(mail_server):
    _, port = mail_server
    channel = EmailChannel(mail_settings(port).email, "wrong", waits_s=(0, 60))
    with pytest.raises(OSError, match=r"[Aa]uthentication"):
        channel.send(NOTICE)


def test_no_password_goes_to_a_server_whose_certificate_is_not_trusted(mail_server, monkeypatch):
    box, port = mail_server
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        EmailChannel(mail_settings(port).email, "pass word", waits_s=(0,)).send(NOTICE)
    assert box.mails == []


def test_a_run_can_not_put_headers_into_its_mails():
    box = Mailbox()
    controller = Controller(box, hostname="127.0.0.1", port=free_port())
    controller.start()
    settings = mail_settings(controller.port, username=None, password_env=None, security="none", server="127.0.0.1")
    EmailChannel(settings.email).send(Notice(ALERT, "x\nBcc: all@example.org", "1"))
    controller.stop()
    assert email.message_from_bytes(box.mails[0][0].content)["Bcc"] is None
    assert box.mails[0][0].rcpt_tos == ["ops@example.org", "lead@example.org"]


def test_secrets_come_from_the_environment_and_a_missing_one_is_named():
    alerting = parse_config({"monitoring": {"alerting": {"webhook_env": "HOOK"}}}).monitoring.alerting
    with pytest.raises(UserError, match=r"monitoring\.alerting\.webhook_env: the environment variable HOOK is not set"):
        Destinations.find(alerting, {})
    with pytest.raises(UserError, match="holds no URL"):
        Destinations.find(alerting, {"HOOK": "SECRET"})
    found = Destinations.find(alerting, {"HOOK": "https://hooks.example/SECRET"})
    assert "SECRET" not in repr(found)
    assert pickle.loads(pickle.dumps(found)) == found  # noqa: S301
    assert [channel.name for channel in found.channels()] == ["log", "webhook hooks.example"]
    with pytest.raises(UserError, match=r"email\.password_env: the environment variable MAIL_PASSWORD"):
        Destinations.find(mail_settings(25), {})


def test_the_log_is_a_channel(caplog):
    with caplog.at_level(logging.WARNING):
        LogChannel().send(NOTICE)
    assert "support-bot: loss threshold at step 724: The loss rose" in caplog.text


def test_a_broken_channel_is_said_once_and_the_others_deliver():
    said = []
    broken = WebhookChannel(f"http://127.0.0.1:{free_port()}/SECRET", waits_s=(0,))
    with WebhookServer() as hook:
        delivery = Delivery([broken, WebhookChannel(hook.url)], warn=said.append)
        for _ in range(3):
            delivery.send(NOTICE)
        delivery.close()
        delivery.join(10)
    assert len(hook.bodies) == 3
    assert said == ["An alert could not be sent by webhook 127.0.0.1: OSError: no delivery: ConnectError."]


def test_a_channel_that_hangs_is_left_in_bounded_time():
    said = []
    with WebhookServer(hangs=True) as hook:
        delivery = Delivery([WebhookChannel(hook.url)], warn=said.append, timeout_s=60)
        delivery.send(NOTICE)
        delivery.close()
        delivery.join(0.3)
    assert "did not finish within 0.3 s" in said[0]
