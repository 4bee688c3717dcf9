//! Providers that repeat the key they were called with, in every place of an answer, and such as break off or make no sense.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use keyforge_loadtest::provider::Reply as Scripted;
use keyforge_proto::admin::v1 as admin;
use keyforge_proto::admin::v1::credential_service_client::CredentialServiceClient;
use serde_json::json;

use super::{ROTATED_KEY, SECOND_KEY, Scene, chat_body};
use crate::harness::{PROVIDER_KEY, hello};

impl Scene {
    /// Providers that repeat the key they were called with.
    pub(super) async fn indiscreet_providers(&mut self) {
        let error = |message: String| {
            json!({ "error": { "message": message, "type": "invalid_request_error", "param": null, "code": null } })
                .to_string()
        };
        for key in [PROVIDER_KEY, SECOND_KEY, ROTATED_KEY] {
            let masked = format!("{}***{}", &key[..4], &key[key.len() - 4..]);
            let in_words = error(format!("Incorrect API key provided: {masked} ({key}). Authorization: Bearer {key}"));
            let encoded = STANDARD_NO_PAD.encode(key);
            let in_fields =
                json!({ "error": { "message": format!("bad {key}"), "type": key, "param": key, "code": key } })
                    .to_string();
            let bare =
                json!({ "message": key, "detail": { "authorization": format!("Bearer {key}") }, "encoded": encoded })
                    .to_string();
            for status in [400, 401, 402, 403, 404, 409, 413, 422, 429, 500, 503, 529] {
                for body in [&in_words, &in_fields, &bare] {
                    let reply =
                        Scripted::Status { code: status, body: Some(body.clone()), headers: Default::default() }
                            .with_header("x-echo-authorization", &format!("Bearer {key}"))
                            .with_header("www-authenticate", &format!("Bearer realm=\"{key}\""))
                            .with_header("x-request-id", key);
                    self.scripted(&format!("{status} that repeats the key"), reply).await;
                }
            }
            let event = |data: &str| format!("data: {data}\n\n");
            let chunk = json!({ "id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini",
                "choices": [{ "index": 0, "delta": { "content": "Hi" }, "finish_reason": null }] })
            .to_string();
            let streams = [
                event(&in_words),
                event(&in_fields),
                [event(&chunk), event(&in_words)].concat(),
                [event(&chunk), event(&in_fields)].concat(),
                [event(&chunk), format!("event: error\ndata: {in_words}\n\n")].concat(),
                [event(&chunk), format!("data: {{not json {key}\n\n")].concat(),
                [event(&chunk), format!(": {key}\n\ndata: [DONE]\n\n")].concat(),
            ];
            for (number, body) in streams.into_iter().enumerate() {
                let reply = Scripted::events(body).with_header("x-echo-authorization", key);
                self.scripted(&format!("stream {number} that repeats the key"), reply).await;
            }
            for body in [format!("not json {key}"), format!("<html>{key}</html>"), in_words.clone(), bare.clone()] {
                self.scripted("a 200 that repeats the key", Scripted::json(200, body.clone())).await;
                self.scripted("a 502 that repeats the key", Scripted::raw(502, body)).await;
            }
        }
        for reply in [Scripted::Hang, Scripted::SlowHeaders { interval_ms: 50 }] {
            // The client does not wait for these.
            self.provider.push(reply);
            let body = hello();
            let request = self.gateway.chat(&body);
            drop(tokio::time::timeout(Duration::from_millis(300), request).await);
        }
        for reply in [
            Scripted::Garbage,
            Scripted::GzipGarbage,
            Scripted::CloseBeforeResponse,
            Scripted::CutStream { after_events: 2 },
            Scripted::ErrorEvent { after_events: 1 },
        ] {
            self.scripted(&format!("{reply:?}"), reply).await;
        }
    }

    /// The same reply for a buffered and for a streamed request.
    async fn scripted(&mut self, what: &str, reply: Scripted) {
        for streamed in [false, true] {
            self.provider.push(reply.clone());
            let got = self.gateway.chat_as(&self.tokens[1], &chat_body(streamed)).await;
            self.search.reply(&format!("the answer to {what} (streamed: {streamed})"), &got);
            // What says something of the credential keeps the next reply from being asked for.
            if matches!(reply, Scripted::Status { code: 401..=403 | 429 | 503 | 529, .. }) {
                self.forgive().await;
            }
        }
    }

    /// Lets every credential be used again, whatever its provider has said of it: under another version, in another group, at another spelling of
    /// its address.
    async fn forgive(&mut self) {
        self.forgiven += 1;
        let mut credentials = CredentialServiceClient::new(self.gateway.admin().await);
        let all = credentials.list_credentials(admin::ListCredentialsRequest::default()).await.unwrap().into_inner();
        for admin::Credential { id, .. } in all.credentials {
            let port = format!("{}{}", "0".repeat(self.forgiven), self.provider.addr().port());
            let update = admin::UpdateCredentialRequest {
                id: id.clone(),
                base_url: format!("http://127.0.0.1:{port}/v1"),
                limit_group: format!("group-{}", self.forgiven),
                update_mask: Some(prost_types::FieldMask {
                    paths: ["base_url", "limit_group"].map(String::from).to_vec(),
                }),
                ..Default::default()
            };
            credentials.update_credential(update).await.unwrap();
            let rotation = admin::RotateCredentialRequest { id, secret: PROVIDER_KEY.into() };
            credentials.rotate_credential(rotation).await.unwrap();
        }
        let served = async || self.gateway.chat_as(&self.tokens[1], &chat_body(false)).await.status == 200;
        self.gateway.eventually("the credentials are used again", served).await;
    }
}
