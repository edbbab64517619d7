"""The hub is asked once whether it answers."""

import http.server
import threading

import pytest
from huggingface_hub import constants

from hamcl import network
from hamcl.errors import UsageError
from hamcl.nn.backbones import load_backbone


@pytest.fixture
def online(monkeypatch):
    """As without `HF_HUB_OFFLINE`, but the hub is a closed port of this machine."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")


def test_a_hub_that_does_not_answer_is_not_asked_again(online, capfd, caplog):
    with network.hub():
        assert constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE
    for spec in ("timm/resnet18", "hf/nobody/nothing"):
        with pytest.raises(UsageError, match=f"'{spec}' is not on this machine and could not be fetched"):
            load_backbone(spec)
    assert capfd.readouterr() == ("", "") and caplog.text == ""


def test_a_name_that_is_looked_up_for_ever_costs_a_few_seconds(online, monkeypatch):
    monkeypatch.setattr(network, "SECONDS", 0.05)
    monkeypatch.setattr("huggingface_hub.get_session", lambda: threading.Event().wait(2))
    with network.hub():
        assert constants.HF_HUB_OFFLINE


def test_a_hub_that_answers_is_used(online, monkeypatch):
    class Hub(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        with network.hub():
            assert not constants.HF_HUB_OFFLINE
        server.shutdown()


def test_who_asks_for_no_network_gets_none(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(network, "_answers", lambda: pytest.fail("nobody may be asked"))
    with network.hub():
        assert constants.HF_HUB_OFFLINE
    assert constants.HF_HUB_OFFLINE
