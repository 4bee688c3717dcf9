//! Agents, operators and programs that hold the wrong secret, or put the right one in the wrong place.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request};
use keyforge_proto::admin::v1 as admin;
use keyforge_proto::fleet::v1 as fleet;
use serde_json::json;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;

use super::{MISPLACED_KEY, Scene};
use crate::harness::{Gateway, PROVIDER_KEY, hello, read};

impl Scene {
    /// Agents that hold the wrong thing, or put the right thing in the wrong place.
    pub(super) async fn clumsy_agents(&mut self) {
        let [first, capped] = self.tokens.clone();
        let mut cut = first.clone();
        cut.truncate(first.len() - 1);
        let wrong = [
            PROVIDER_KEY.to_owned(),
            MISPLACED_KEY.to_owned(),
            self.strange_token.clone(),
            self.operator_token.trim().to_owned(),
            self.fleet_token.trim().to_owned(),
            cut,
            format!("{first}x"),
            first.to_lowercase(),
            format!("{first} {capped}"),
        ];
        for key in &wrong {
            for path in ["/v1/chat/completions", "/v1/models", "/v1/unknown"] {
                let reply = self.gateway.send(Method::POST, path, key, hello().to_string()).await;
                assert!(reply.status >= 400, "{path}");
                self.search.reply("a wrong key", &reply);
            }
        }
        let secrets = [first.as_str(), PROVIDER_KEY, MISPLACED_KEY];
        for secret in secrets {
            let elsewhere: [(&str, String); 6] = [
                ("x-api-key", secret.to_owned()),
                ("api-key", secret.to_owned()),
                ("x-goog-api-key", secret.to_owned()),
                ("authorization", format!("Basic {}", STANDARD_NO_PAD.encode(secret))),
                ("openai-organization", secret.to_owned()),
                ("cookie", format!("session={secret}")),
            ];
            for (name, value) in elsewhere {
                for with_key in [false, true] {
                    let mut request =
                        Request::post(format!("{}/v1/chat/completions", self.gateway.url)).header(name, &value);
                    if with_key && name != "authorization" {
                        request = request.header("authorization", format!("Bearer {capped}"));
                    }
                    let request = request.body(Full::new(Bytes::from(hello().to_string()))).unwrap();
                    let reply = read(self.gateway.request(request).await).await;
                    self.search.reply(&format!("a secret in {name}"), &reply);
                }
            }
            let bodies = [
                format!("{{\"model\": \"gpt-4o-mini\", \"messages\": [{{\"role\": \"user\", \"content\": \"{secret}"),
                format!("{{\"model\": 5, \"api_key\": \"{secret}\"}}"),
                secret.to_owned(),
                format!("{{\"{secret}\": 1}}"),
                json!({ "model": "gpt-4o-mini", "messages": secret }).to_string(),
                json!({ "model": "gpt-4o-mini", "messages": [], "max_tokens": secret }).to_string(),
                json!({ "model": "gpt-4o-mini", "messages": hello()["messages"], "n": secret, "stream": secret })
                    .to_string(),
                json!({ "model": "gpt-4o-mini", "messages": hello()["messages"], "stream_options": secret })
                    .to_string(),
                json!({ "model": "gpt-4o-mini", "messages": hello()["messages"], "service_tier": secret }).to_string(),
                json!({ "model": "gpt-4o-mini", "messages": [{ "role": secret, "content": [{ "type": secret }] }] })
                    .to_string(),
                json!({ "model": "gpt-4o-mini", "messages": hello()["messages"], secret: secret }).to_string(),
            ];
            for body in bodies {
                let reply = self.gateway.send(Method::POST, "/v1/chat/completions", &capped, body.clone()).await;
                self.search.reply("a body with a secret in it", &reply);
            }
            for path in
                [format!("/v1/chat/completions?api_key={secret}"), format!("/{secret}"), format!("/v1/{secret}")]
            {
                let reply = self.gateway.send(Method::POST, &path, &capped, hello().to_string()).await;
                self.search.reply("a path with a secret in it", &reply);
            }
        }
    }

    /// A secret where a model's name belongs, which is the one thing of a request that is recorded as it was said.
    pub(super) async fn misnamed_models(&mut self) {
        for secret in [self.tokens[0].clone(), PROVIDER_KEY.to_owned(), MISPLACED_KEY.to_owned()] {
            let mut body = hello();
            body["model"] = json!(secret);
            let reply = self.gateway.chat_as(&self.tokens[1], &body).await;
            assert_eq!(reply.status, 404);
            self.search.reply("a secret as the model", &reply);
            let reply = self.gateway.send(Method::GET, &format!("/v1/models/{secret}"), &self.tokens[1], "").await;
            self.search.reply("a secret as the model in a path", &reply);
        }
    }

    pub(super) fn clumsy_operators(&mut self) {
        let [first, _] = self.tokens.clone();
        let operator = self.operator_token.trim().to_owned();
        for secret in [first.as_str(), operator.as_str(), MISPLACED_KEY] {
            let lines: [&[&str]; 21] = [
                &["credential", "add", "--provider", "openai", secret],
                &["credential", secret],
                &["key", "create", "x", "y", secret],
                &["credential", "add", "--provider", "openai", "--secret", secret],
                &["credential", "add", "--provider", secret, "--secret", "env:NEVER_SET_ANYWHERE"],
                &["credential", "rotate", secret, "--secret", secret],
                &["credential", "remove", secret],
                &["credential", "disable", secret],
                &["key", "show", secret],
                &["key", "revoke", secret],
                &["key", "update", secret, "--requests", "1/month"],
                &["key", "list", "--admin-token", secret],
                &["key", "create", "x", "--requests", secret],
                &["key", "create", "x", "--spend", secret],
                &["audit", "verify", secret],
                &["audit", "list", secret],
                &["usage", "--key", secret],
                &["usage", "--from", secret],
                &["key", "list", "--admin-url", secret],
                &["operator", "revoke", secret],
                &["operator", "rotate", secret],
            ];
            for line in lines {
                assert_ne!(self.cli(line), Some(0), "{:?}", line[..2].to_vec());
            }
        }
        for line in [["key", "list"], ["credential", "list"], ["model", "list"], ["audit", "verify"]] {
            let last: &[&str] = if line[1] == "verify" { &["--all"] } else { &["--output", "json"] };
            assert_eq!(self.cli(&[&line[..], last].concat()), Some(0));
        }
        assert_eq!(self.cli(&["audit", "list", "--admin", "--output", "json"]), Some(0));
        assert_eq!(self.cli(&["audit", "list", &Gateway::id_of(&first)]), Some(0));
        assert_eq!(self.cli(&["usage", "--key", &Gateway::id_of(&first)]), Some(0));
    }

    /// Calls of the admin and fleet APIs that are refused.
    pub(super) async fn clumsy_programs(&mut self) {
        let address = fs::read_to_string(self.gateway.data.join("admin.addr")).unwrap();
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", address.trim())).unwrap();
        let channel = endpoint.connect().await.unwrap();
        let bearers = [
            PROVIDER_KEY.to_owned(),
            MISPLACED_KEY.to_owned(),
            self.tokens[0].clone(),
            self.strange_token.clone(),
            self.fleet_token.trim().to_owned(),
            self.operator_token.trim().to_owned(),
        ];
        for bearer in &bearers {
            for secret in [PROVIDER_KEY, MISPLACED_KEY, self.tokens[0].as_str()] {
                for status in refused_calls(&channel, bearer, secret).await {
                    let words = format!("{status:?} {status} {:?}", status.metadata());
                    self.search.look("a gRPC status", words.as_bytes());
                    self.search.look("a gRPC status's details", status.details());
                }
            }
        }
    }
}

/// Calls that must fail, and how they failed.
async fn refused_calls(channel: &Channel, bearer: &str, secret: &str) -> Vec<tonic::Status> {
    let mut statuses = Vec::new();
    let value: MetadataValue<_> = format!("Bearer {bearer}").parse().unwrap();
    let with = move |mut request: tonic::Request<()>| {
        request.metadata_mut().insert("authorization", value.clone());
        Ok(request)
    };
    let mut keys = admin::key_service_client::KeyServiceClient::with_interceptor(channel.clone(), with.clone());
    let mut credentials =
        admin::credential_service_client::CredentialServiceClient::with_interceptor(channel.clone(), with.clone());
    let mut audit = admin::audit_service_client::AuditServiceClient::with_interceptor(channel.clone(), with.clone());
    let mut usage = admin::usage_service_client::UsageServiceClient::with_interceptor(channel.clone(), with.clone());
    let mut intake =
        fleet::audit_intake_service_client::AuditIntakeServiceClient::with_interceptor(channel.clone(), with);
    let id = secret.to_owned();
    statuses.extend(keys.get_key(admin::GetKeyRequest { id: id.clone() }).await.err());
    statuses.extend(keys.revoke_key(admin::RevokeKeyRequest { id: id.clone(), wait_ms: None }).await.err());
    let update = admin::UpdateKeyRequest {
        id: id.clone(),
        update_mask: Some(prost_types::FieldMask { paths: vec![secret.to_owned()] }),
        ..Default::default()
    };
    statuses.extend(keys.update_key(update).await.err());
    statuses.extend(
        keys.list_keys(admin::ListKeysRequest { page_size: 1, page_token: id.clone(), ..Default::default() })
            .await
            .err(),
    );
    let add = admin::AddCredentialRequest {
        provider: "no provider has this name".to_owned(),
        secret: secret.as_bytes().to_vec(),
        base_url: "not a url".to_owned(),
        ..Default::default()
    };
    statuses.extend(credentials.add_credential(add).await.err());
    let add = admin::AddCredentialRequest {
        provider: "openai".to_owned(),
        secret: [secret.as_bytes(), b"\r\nx: y\xff"].concat(),
        ..Default::default()
    };
    statuses.extend(credentials.add_credential(add).await.err());
    let with_userinfo = admin::AddCredentialRequest {
        provider: "openai".to_owned(),
        secret: b"x".to_vec(),
        base_url: format!("https://user:{secret}@127.0.0.1/v1?key={secret}"),
        ..Default::default()
    };
    statuses.extend(credentials.add_credential(with_userinfo).await.err());
    statuses.extend(
        credentials
            .rotate_credential(admin::RotateCredentialRequest { id: id.clone(), secret: secret.into() })
            .await
            .err(),
    );
    statuses.extend(credentials.remove_credential(admin::RemoveCredentialRequest { id: id.clone() }).await.err());
    let chain = Some(admin::ChainSelector { chain: Some(admin::chain_selector::Chain::KeyId(id.clone())) });
    let list =
        admin::ListEntriesRequest { chain: chain.clone(), page_size: 1, page_token: id.clone(), ..Default::default() };
    statuses.extend(audit.list_entries(list).await.err());
    statuses.extend(audit.verify_chains(admin::VerifyChainsRequest { chain }).await.err());
    statuses.extend(usage.get_balance(admin::GetBalanceRequest { key_id: id }).await.err());
    let ship =
        fleet::ShipRecordsRequest { records: vec![secret.as_bytes().to_vec()], first_seq: 1, ..Default::default() };
    statuses.extend(intake.ship_records(ship).await.err());
    assert!(statuses.len() >= 12, "only {} calls were refused", statuses.len());
    statuses
}
