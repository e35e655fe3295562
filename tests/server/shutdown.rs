//! Shutdown: requests in flight are completed, acknowledged writes are sealed, and the exit code is 0.

use std::time::{Duration, Instant};

use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::common::documents::read;
use crate::common::{PATIENCE, Process, channel, directory, insert, runtime, search, vector};
use crate::{DIMENSION, SETTINGS, store};

#[test]
fn both_signals_end_an_idle_server_well() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    for signal in ["TERM", "INT"] {
        let process = Process::start(&data_dir, SETTINGS);
        let begun = Instant::now();
        process.signal(signal);
        assert_eq!(process.wait(), Some(0), "{signal}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{signal}: {:?}", begun.elapsed());
    }
}

#[test]
fn a_client_that_only_watches_does_not_delay_the_end() {
    let directory = directory();
    let process = Process::start(&directory.path().join("data"), SETTINGS);
    let runtime = runtime();
    runtime.block_on(async {
        let mut health = HealthClient::new(channel(process.grpc).await);
        let watch = HealthCheckRequest { service: String::new() };
        let mut watch = health.watch(watch).await.unwrap().into_inner();
        // This service reports readiness a moment after the server is ready.
        let mut last = ServingStatus::Unknown;
        while last != ServingStatus::Serving {
            last = watch.message().await.unwrap().unwrap().status();
        }
        process.signal("TERM");
        while let Ok(Some(answer)) = watch.message().await {
            last = answer.status();
        }
        assert_ne!(last, ServingStatus::Serving, "the watcher was told nothing");
    });
    assert_eq!(process.wait(), Some(0));
}

/// An open BulkSearch that is quiet is ended with a status, without another message; its requests are answered.
#[test]
fn an_idle_stream_of_searches_ends_with_a_status() {
    let directory = directory();
    let process = Process::start(&directory.path().join("data"), SETTINGS);
    runtime().block_on(async {
        store(&mut process.client().await, 1).await;
        let mut client = process.client().await;
        let (searches, messages) = tokio::sync::mpsc::channel(8);
        searches.send(search(&vector(1, DIMENSION), 1)).await.unwrap();
        let mut found =
            client.bulk_search(ReceiverStream::new(messages)).await.unwrap().into_inner();
        assert!(found.message().await.unwrap().is_some());
        process.signal("TERM");
        let status = tokio::time::timeout(PATIENCE, found.message()).await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(status.message().contains("shutting down"), "{status:?}");
        drop(searches);
    });
    assert_eq!(process.wait(), Some(0));
}

/// Clients that insert without a pause while the server ends: each insert is acknowledged and present, or refused.
#[test]
fn writes_acknowledged_during_shutdown_are_kept() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let process = Process::start(&data_dir, SETTINGS);
    let runtime = runtime();
    let acknowledged = runtime.block_on(async {
        store(&mut process.client().await, 1).await;
        let writers: Vec<_> = (1..=4_u64)
            .map(|writer| {
                let address = process.grpc;
                tokio::spawn(async move {
                    let mut client = crate::common::connect(address).await;
                    let mut acknowledged = Vec::new();
                    for id in writer * 1_000_000.. {
                        let request = insert(id, &vector(id, DIMENSION), &[]);
                        match client.insert(request).await {
                            Ok(_) => acknowledged.push(id),
                            Err(status) => {
                                let codes = [Code::Unavailable, Code::Unknown, Code::Cancelled];
                                assert!(codes.contains(&status.code()), "{status:?}");
                                break;
                            }
                        }
                    }
                    acknowledged
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(200)).await;
        process.signal("TERM");
        let mut all = vec![1];
        for writer in writers {
            all.extend(writer.await.unwrap());
        }
        all
    });
    assert_eq!(process.wait(), Some(0));
    assert!(acknowledged.len() > 20, "{}", acknowledged.len());
    let process = Process::start(&data_dir, SETTINGS);
    runtime.block_on(async {
        let found = read(&mut process.client().await, &acknowledged).await;
        let lost: Vec<_> = acknowledged.iter().filter(|id| !found.contains_key(id)).collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
    });
    process.stop();
}
