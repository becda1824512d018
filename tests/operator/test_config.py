"""The environment that the chart sets."""

import pytest
from easel_operator.config import ConfigurationError, OperatorConfig

REQUIRED = {
    "EASEL_GATEWAY_IMAGE": "img:1",
    "EASEL_WORKER_IMAGE": "img:2",
    "EASEL_REDIS_URL": "redis://r",
    "EASEL_OPERATOR_NAMESPACE": "easel",
}


def test_the_required_variables_are_enough() -> None:
    config = OperatorConfig.from_environment({**REQUIRED, "EASEL_WATCH_NAMESPACES": "", "PATH": "/bin"})
    assert (config.metrics_port, config.health_port, config.watch_namespaces) == (6443, 8081, ())


def test_values_are_read() -> None:
    more = {"EASEL_WATCH_NAMESPACES": "a, b", "EASEL_SCRAPE_INTERVAL_SECONDS": "0.5", "EASEL_LOG_LEVEL": "debug"}
    config = OperatorConfig.from_environment({**REQUIRED, **more})
    assert (config.watch_namespaces, config.scrape_interval_seconds, config.log_level) == (("a", "b"), 0.5, "DEBUG")


def test_faults_name_the_variable_and_the_value() -> None:
    wrong = {**REQUIRED, "EASEL_METRICS_PORT": "70000"}
    del wrong["EASEL_REDIS_URL"]
    with pytest.raises(ConfigurationError) as caught:
        OperatorConfig.from_environment(wrong)
    assert "EASEL_METRICS_PORT: Input should be less than or equal to 65535 (value seen: '70000')" in str(caught.value)
    assert "EASEL_REDIS_SECRET: Value error, set either this or EASEL_REDIS_URL" in str(caught.value)


def test_defaults_for_all_services_are_json_and_null_is_a_default_that_was_taken_away() -> None:
    text = '{"worker": {"resources": null, "podTemplate": {"spec": {"runtimeClassName": "nvidia"}}}, "gateway": {}}'
    config = OperatorConfig.from_environment({**REQUIRED, "EASEL_SERVICE_DEFAULTS": text})
    template = config.service_defaults.worker.pod_template
    assert template is not None
    assert template.spec == {"runtimeClassName": "nvidia"}
    assert config.service_defaults.gateway.pod_template is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "EASEL_SERVICE_DEFAULTS: Invalid JSON"),
        (
            '{"worker": {"podTemplate": {"spec": {"restartPolicy": "Never"}}}}',
            "restartPolicy can't be in a podTemplate",
        ),
        ('{"workers": {"podTemplate": {"spec": {}}}}', "EASEL_SERVICE_DEFAULTS: workers: Extra inputs"),
    ],
)
def test_defaults_that_would_break_every_service_end_the_operator_with_a_sentence(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        OperatorConfig.from_environment({**REQUIRED, "EASEL_SERVICE_DEFAULTS": text})
    assert words in str(caught.value)


def test_the_past_is_read_from_a_prometheus_only_where_one_is_named_and_its_token_is_not_shown() -> None:
    assert OperatorConfig.from_environment(REQUIRED).prometheus_url == ""
    named = {"EASEL_PROMETHEUS_URL": "https://prometheus.monitoring:9090", "EASEL_PROMETHEUS_TOKEN": "s3cret"}
    config = OperatorConfig.from_environment({**REQUIRED, **named})
    assert (config.prometheus_url, config.prometheus_token) == tuple(named.values())
    assert "s3cret" not in repr(config)
    with pytest.raises(ConfigurationError, match="EASEL_PROMETHEUS_URL"):
        OperatorConfig.from_environment({**REQUIRED, "EASEL_PROMETHEUS_URL": "prometheus:9090"})


@pytest.mark.parametrize(
    "wrong",
    [
        {"EASEL_REDIS_URL": "http://user:secret@r:6379"},
        {"EASEL_PROMETHEUS_URL": "ftp://user:secret@prometheus"},
        {"EASEL_SERVICE_DEFAULTS": '{"downloads": {"proxy": {"address": "http://user:secret@proxy:3128"}}}'},
    ],
)
def test_what_is_said_of_a_wrong_url_holds_no_password(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        OperatorConfig.from_environment({**REQUIRED, **wrong})
    assert "//…@" in str(caught.value)
    assert "secret" not in str(caught.value)
