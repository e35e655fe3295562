//! Precedence, messages, guardrails.

use super::*;

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

fn with_file(name: &str, text: &str, pairs: &[(&str, &str)]) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, text).unwrap();
    let overrides = Overrides { file: Some(path), ..Overrides::default() };
    load(&overrides, variables(pairs)).map(|(config, _)| config).map_err(|faults| faults.join("\n"))
}

fn with_variables(pairs: &[(&str, &str)]) -> Result<Config, String> {
    load(&Overrides::default(), variables(pairs))
        .map(|(config, _)| config)
        .map_err(|faults| faults.join("\n"))
}

#[test]
fn the_stronger_source_wins() {
    let text = "server:\n  port: 1111\n  host: localhost\nhnsw:\n  m: 24\n  dimension: 8\n";
    let config = with_file("c.yaml", text, &[("KYRODB__HNSW__M", "32")]).unwrap();
    assert_eq!((config.server.port, config.hnsw.m, config.hnsw.dimension), (1111, 32, 8));
    let overrides =
        Overrides { port: Some(2222), data_dir: Some("/elsewhere".into()), ..Overrides::default() };
    let (config, origins) =
        load(&overrides, variables(&[("KYRODB__SERVER__PORT", "3333")])).unwrap();
    assert_eq!(config.server.port, 2222);
    assert_eq!(config.persistence.data_dir, std::path::Path::new("/elsewhere"));
    assert_eq!(config.server.http_port(), 3222);
    let origin = |key: &str| origins.get(key).map(String::as_str);
    assert_eq!(origin("server.port"), Some("--port"));
    assert_eq!((origin("persistence.data_dir"), origin("hnsw.m")), (Some("--data-dir"), None));
}

#[test]
fn both_formats_of_generated_defaults_load_again() {
    for format in ["toml", "yaml"] {
        let text = generate(format).unwrap();
        assert_eq!(with_file(&format!("c.{format}"), &text, &[]).unwrap(), Config::default());
    }
    let toml = generate("toml").unwrap();
    assert!(!toml.contains("http_port") && !toml.contains("api_keys_file"), "{toml}");
    assert!(!toml.contains("pid_file"), "{toml}");
    assert!(generate("json").unwrap_err().contains("toml or yaml"));
}

#[test]
fn unknown_keys_are_named_with_the_nearest_valid_one() {
    let faults = with_file("c.toml", "[hnsw]\ndimensoin = 3\n[server]\nprot = 1\n[x]\n", &[]);
    let faults = faults.unwrap_err();
    assert!(faults.contains("`hnsw.dimensoin`; did you mean `hnsw.dimension`?"), "{faults}");
    assert!(faults.contains("`server.prot`; did you mean `server.port`?"), "{faults}");
    assert!(faults.contains("`x`; `kyrodb_server --generate-config"), "{faults}");
    let faults = with_variables(&[("KYRODB__HNSW__EF_SERCH", "3")]).unwrap_err();
    assert!(faults.contains("did you mean KYRODB__HNSW__EF_SEARCH?"), "{faults}");
    assert!(with_variables(&[("KYRODB__HNSW", "3")]).is_err());
    assert!(with_variables(&[("KYRODB_PORT", "3"), ("OTHER", "x")]).is_ok());
}

#[test]
fn a_variable_of_no_program_is_a_warning_and_stops_nothing() {
    let known = [("KYRODB_PORT", "3"), ("KYRODB_URL", "x"), ("OTHER", "x"), ("KYRODB", "x")];
    assert_eq!(with_variables(&known).unwrap().warnings(), [""; 0]);
    let config = with_variables(&[("KYRODB_HNSW_EF_SEARCH", "3")]).unwrap();
    assert_eq!(config.hnsw, HnswSection::default());
    let said = config.warnings().join("\n");
    assert!(said.contains("KYRODB_HNSW_EF_SEARCH has no effect"), "{said}");
    assert!(said.contains("did you mean KYRODB__HNSW__EF_SEARCH?"), "{said}");
}

#[test]
fn variables_are_read_as_what_the_key_wants() {
    let config = with_variables(&[
        ("KYRODB__PERSISTENCE__DATA_DIR", "123"),
        ("KYRODB__SERVER__HTTP_PORT", "777"),
        ("KYRODB__SERVER__HTTP_HOST", "127.0.0.1"),
        ("KYRODB__SLO__P99_LATENCY_MS", "2.5"),
        ("KYRODB__PERSISTENCE__FSYNC_POLICY", " DataAndManifest "),
        ("KYRODB__HNSW__DISTANCE", "InnerProduct"),
        ("KYRODB__PERSISTENCE__ALLOW_FRESH_START_ON_RECOVERY_FAILURE", "TRUE"),
        ("KYRODB__PERSISTENCE__SNAPSHOT_INTERVAL_INSERTS", "7"),
    ])
    .unwrap();
    assert_eq!(config.persistence.data_dir, std::path::Path::new("123"));
    assert_eq!((config.server.http_port(), config.server.http_host()), (777, "127.0.0.1"));
    assert_eq!(config.persistence.fsync_policy, FsyncPolicy::Full);
    assert_eq!(config.hnsw.distance, Distance::InnerProduct);
    assert!(config.persistence.allow_fresh_start_on_recovery_failure);
    assert_eq!(config.persistence.snapshot_interval_mutations, 7);
}

#[test]
fn wrong_types_and_words_name_their_key() {
    let fault = with_variables(&[("KYRODB__HNSW__M", "many")]).unwrap_err();
    assert!(fault.contains("hnsw.m"), "{fault}");
    let fault = with_file("c.yml", "hnsw:\n  distance: hamming\n", &[]).unwrap_err();
    assert!(fault.contains("hnsw.distance") && fault.contains("cosine, euclidean"), "{fault}");
    let fault = with_file("c.toml", "server = 3\n", &[]).unwrap_err();
    assert!(fault.contains("server has to be a section"), "{fault}");
    assert!(with_file("c.ini", "", &[]).unwrap_err().contains("neither toml nor yaml"));
    assert!(with_file("c.toml", "= =", &[]).unwrap_err().contains("c.toml"));
    let long = "#".repeat((64 << 10) + 1);
    assert!(with_file("c.toml", &long, &[]).unwrap_err().contains("c.toml: more than the 65536"));
    assert_eq!(with_file("c.toml", &long[1..], &[]).unwrap(), Config::default());
    let fault = from_bytes(b"# \xff\n", "toml").unwrap_err();
    assert!(fault[0].contains("utf-8"), "{fault:?}");
    let missing = Overrides { file: Some("/nowhere/c.toml".into()), ..Overrides::default() };
    assert!(load(&missing, variables(&[])).unwrap_err()[0].contains("/nowhere/c.toml"));
}

#[test]
fn all_faults_are_listed_at_once() {
    let mut config = Config::default();
    config.server.port = 65_000;
    config.server.pid_file = Some("".into());
    config.hnsw.m = 4;
    config.hnsw.ef_construction = 3;
    config.hnsw.dimension = 5_000;
    config.hnsw.recall_sample_per_second = f64::NAN;
    config.slo.error_rate = 2.0;
    config.timeouts.cold_tier_ms = 0;
    config.persistence.wal_segment_bytes = 5 << 20 | 1;
    config.cache.min_training_samples = 20_000;
    config.cache.query_cache_capacity = 10_000_001;
    config.cache.query_cache_max_bytes = 0;
    config.cache.query_cache_checks_per_second = f64::NAN;
    config.cache.query_cache_min_overlap = 1.5;
    let faults = config.validate();
    assert_eq!(faults.len(), 14, "{faults:#?}");
}

#[test]
fn environments_refuse_what_is_unsafe_in_them() {
    let fault_of = |change: fn(&mut Config)| {
        let mut config = Config::default();
        change(&mut config);
        config.validate().join("\n")
    };
    assert_eq!(fault_of(|_| {}), "");
    assert!(fault_of(|c| c.persistence.fsync_policy = FsyncPolicy::None).contains("none"));
    assert!(fault_of(|c| c.persistence.snapshot_interval_mutations = 0).contains("snapshot"));
    assert!(fault_of(|c| c.server.host = "0.0.0.0".into()).contains("without auth"));
    assert!(fault_of(|c| c.server.http_host = Some("10.1.1.1".into())).contains("HTTP host"));
    for host in ["localhost", "::1", "[::1]", "::1%lo", "127.9.9.9"] {
        let mut config = Config::default();
        config.server.host = host.into();
        assert_eq!(config.validate(), [""; 0], "{host}");
    }
    let everything_off = |c: &mut Config| {
        c.environment.r#type = Environment::Benchmark;
        c.persistence.fsync_policy = FsyncPolicy::None;
        c.persistence.snapshot_interval_mutations = 0;
        c.server.host = "0.0.0.0".into();
    };
    assert_eq!(fault_of(everything_off), "");
    let pilot = fault_of(|c| c.environment.r#type = Environment::Pilot);
    assert!(pilot.contains("auth.enabled") && pilot.contains("rate_limit.enabled"), "{pilot}");
}

#[test]
fn keys_of_earlier_servers_are_taken_with_a_warning_that_names_those_of_today() {
    let text = "timeouts:\n  cache_ms: 10\ntraining:\n  window_duration_secs: 300\n\
                access_logger:\n  window_size: 50000\n\
                cache:\n  auto_tune_threshold: false\n  target_utilization: 0.85\n";
    let config = with_file("c.yaml", text, &[]).unwrap();
    assert_eq!(config.cache.training_window_secs, 300);
    assert_eq!(config.cache.logger_window_size, 50_000);
    assert!(!config.cache.adaptive_admission.enabled);
    assert_eq!(config.cache.adaptive_admission.target_utilization, 0.85);
    let said = config.warnings().join("\n");
    for part in [
        "c.yaml: timeouts.cache_ms has no effect",
        "training.window_duration_secs is called cache.training_window_secs now",
        "access_logger.window_size is called cache.logger_window_size now",
        "cache.auto_tune_threshold is called cache.adaptive_admission.enabled now",
    ] {
        assert!(said.contains(part), "{part:?}: {said}");
    }
    let text = "cache:\n  training:\n    max_samples: 5\n    window_duration_secs: 7\n";
    let config = with_file("c.yaml", text, &[]).unwrap();
    assert_eq!((config.cache.logger_window_size, config.cache.training_window_secs), (5, 7));
    // The key of today is stronger, and a variable may have the former name too.
    let text = "[cache]\nlogger_window_size = 9\n[access_logger]\nwindow_size = 8\n";
    let config = with_file("c.toml", text, &[]).unwrap();
    assert_eq!(config.cache.logger_window_size, 9);
    let config = with_variables(&[
        ("KYRODB__TRAINING__WINDOW_DURATION_SECS", "60"),
        ("KYRODB__TIMEOUTS__CACHE_MS", "10"),
    ]);
    let config = config.unwrap();
    assert_eq!(config.cache.training_window_secs, 60);
    assert_eq!(config.warnings().len(), 3, "{:?}", config.warnings());
    // Beside a former key an unknown one is unknown, and values are looked at as ever.
    let text = "training:\n  window_duration_secs: 300\n  windows: 2\n";
    assert!(with_file("c.yaml", text, &[]).unwrap_err().contains("unknown key `training`"));
    let text = "access_logger:\n  window_size: 0\n";
    assert!(with_file("c.yaml", text, &[]).unwrap_err().contains("cache.logger_window_size"));
    // Another name of a key is no former one.
    let text = "persistence:\n  snapshot_interval_inserts: 77\n";
    let config = with_file("c.yaml", text, &[]).unwrap();
    assert_eq!(config.persistence.snapshot_interval_mutations, 77);
    assert_eq!(config.warnings(), Vec::<String>::new());
}

#[test]
fn a_section_that_is_named_twice_leads_to_the_key_that_is_meant() {
    let faults = with_file("c.yaml", "cache:\n  cache_capacity: 50000\n", &[]).unwrap_err();
    assert!(faults.contains("did you mean `cache.capacity`?"), "{faults}");
    let faults = with_variables(&[("KYRODB__HNSW__HNSW_M", "3")]).unwrap_err();
    assert!(faults.contains("did you mean KYRODB__HNSW__M?"), "{faults}");
}

#[test]
fn the_state_directory_of_a_unit_is_the_weakest_of_all_data_directories() {
    let state = ("STATE_DIRECTORY", "/var/lib/kyrodb:/var/lib/other");
    let config = with_variables(&[state]).unwrap();
    assert_eq!(config.persistence.data_dir, std::path::Path::new("/var/lib/kyrodb"));
    let text = "[persistence]\ndata_dir = \"/srv/kyrodb\"\n";
    let config = with_file("c.toml", text, &[state]).unwrap();
    assert_eq!(config.persistence.data_dir, std::path::Path::new("/srv/kyrodb"));
    let config = with_variables(&[state, ("KYRODB__PERSISTENCE__DATA_DIR", "/x")]).unwrap();
    assert_eq!(config.persistence.data_dir, std::path::Path::new("/x"));
    let config = with_variables(&[("STATE_DIRECTORY", "relative")]).unwrap();
    assert_eq!(config, Config::default());
    // What the command line overrides is said.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.toml");
    std::fs::write(&path, text).unwrap();
    let overrides =
        Overrides { file: Some(path), data_dir: Some("/y".into()), ..Overrides::default() };
    let (config, _) = load(&overrides, variables(&[state])).unwrap();
    assert_eq!(config.persistence.data_dir, std::path::Path::new("/y"));
    let said = config.warnings().join("\n");
    assert!(said.contains("\"/srv/kyrodb\"") && said.contains("\"/y\""), "{said}");
}
