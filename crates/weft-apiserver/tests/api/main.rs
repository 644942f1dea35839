//! The server as its clients see it: kube-rs and stock kubectl over TLS on loopback.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod access;
#[allow(dead_code)] // each test takes what it needs
mod ask;
mod bad_input;
mod client;
mod crash;
mod custom;
mod durable;
mod flood;
mod kubectl;
mod managed_fields;
mod observe;
mod streams;
mod verbs;
mod watch;
mod wire;

use kube::config::{KubeConfigOptions, Kubeconfig};
use std::{net::TcpListener, path::PathBuf};
use weft_apiserver::{ApiServer, Config, Pki, Token, kubeconfig, random_token};

/// A server of one test, stopped when dropped.
struct Server {
    api: ApiServer,
    /// Text of a kubeconfig for it.
    kubeconfig: String,
    url: String,
    pki: Pki,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.api.shutdown();
        self.task.abort();
    }
}

impl Server {
    /// Starts on an ephemeral port; the test may change the settings first.
    fn start(change: impl FnOnce(&mut Config)) -> Self {
        let token = random_token();
        let mut config = Config {
            tokens: vec![Token {
                token: token.clone(),
                user: "admin".into(),
                groups: vec!["system:masters".into()],
            }],
            advertise: vec!["172.30.254.1".parse().unwrap(), "127.0.0.1".parse().unwrap()],
            kubelet_socket: std::sync::Arc::new(|n| PathBuf::from(format!("/nonexistent/{n}"))),
            ..Config::default()
        };
        change(&mut config);
        let api = ApiServer::new(config).unwrap();
        let pki = Pki::ephemeral(&[]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let kubeconfig = kubeconfig(&url, &pki.ca_pem, &token);
        let (server, tls) = (api.clone(), pki.tls().unwrap());
        let task = tokio::spawn(async move { server.serve(vec![listener], tls).await.unwrap() });
        Self { api, kubeconfig, url, pki, task }
    }

    /// Stops and waits until the data directory is free for the next one.
    async fn stop(mut self) {
        self.api.shutdown();
        (&mut self.task).await.unwrap();
    }

    /// A kube-rs client over TLS.
    async fn client(&self) -> kube::Client {
        let parsed = Kubeconfig::from_yaml(&self.kubeconfig).unwrap();
        let config =
            kube::Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await;
        kube::Client::try_from(config.unwrap()).unwrap()
    }
}
