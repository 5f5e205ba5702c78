"""Small facts that survive the process."""

from __future__ import annotations

from reconciler.execution.state.records import SavedObservation, SourceRecord
from reconciler.execution.state.sqlite import SqliteStore


def test_the_firewall_as_loaded(store: SqliteStore) -> None:
    assert store.ledger(0.0).firewall is None
    store.set_firewall("template", "listing")
    store.set_firewall("template", "listing-2")
    assert store.ledger(0.0).firewall == ("template", "listing-2")
    store.forget_firewall()
    assert store.ledger(0.0).firewall is None


def test_a_sysctl_keeps_the_value_from_before_us(store: SqliteStore) -> None:
    store.remember_sysctls({"net.ipv6.conf.all.forwarding": "0"})
    store.remember_sysctls({"net.ipv6.conf.all.forwarding": "1", "net.x": "2"})
    assert store.ledger(0.0).sysctls_before == {"net.ipv6.conf.all.forwarding": "0", "net.x": "2"}
    store.forget_sysctls()
    assert store.ledger(0.0).sysctls_before == {}


def test_the_last_observation(store: SqliteStore) -> None:
    assert store.last_observation() is None
    store.save_observation('{"n": 1}', now_s=1.0)
    store.save_observation('{"n": 2}', now_s=2.0)
    assert store.last_observation() == SavedObservation(2.0, '{"n": 2}')


def test_good_documents_are_those_of_the_last_save_per_source(store: SqliteStore) -> None:
    store.save_documents("/specs", {"a.yaml": "1", "b.yaml": "2"})
    store.save_documents("/other", {"a.yaml": "9"})
    store.save_documents("/specs", {"b.yaml": "3", "c.yaml": "4"})
    assert store.good_documents("/specs") == {"b.yaml": "3", "c.yaml": "4"}
    assert store.good_documents("/other") == {"a.yaml": "9"}


def test_where_good_documents_came_from_is_kept_per_source(store: SqliteStore) -> None:
    assert store.source_record("/specs") is None
    store.save_source("/specs", SourceRecord("/specs"))
    store.save_source("git://host/fleet", SourceRecord("/cache/1", "abc", "Ann <a@example.com>"))
    store.save_source("git://host/fleet", SourceRecord("/cache/2", "def", "Ann", "abc"))
    assert store.source_record("/specs") == SourceRecord("/specs")
    assert store.source_record("git://host/fleet") == SourceRecord("/cache/2", "def", "Ann", "abc")


def test_the_last_words(store: SqliteStore) -> None:
    assert store.last_words() == ""
    store.save_last_words("{}")
    store.save_last_words('{"pass": "failed"}')
    assert store.last_words() == '{"pass": "failed"}'
