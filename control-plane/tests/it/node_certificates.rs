//! Certificates of nodes: forged and expired ones are refused, each is renewed in time, and of two who hold one only the first goes on.

use std::time::Duration;

use keyforge_proto::fleet::v1 as fleet;
use keyforge_proto::fleet::v1::node_service_client::NodeServiceClient;
use keyforge_runtime::tls::mutual::ClientIdentity;
use keyforge_runtime::tls::peer::NamedCertificate;
use keyforge_shared::fleet_seal::BootKey;
use keyforge_shared::identity::{Identity, Role};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::PrivateKeyDer;
use tonic::{Code, Status};

use crate::secure::{Machine, PATIENCE, Secure, ending, hello, signing_request, subscribe};
use crate::stores;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The right names and dates under an authority that somebody made at home.
fn forged_certificate(named: Identity) -> ClientIdentity {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(named.to_string().as_str().try_into().unwrap())];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, &issuer).unwrap().into();
    ClientIdentity { certificate, key: PrivateKeyDer::from(key) }
}

#[tokio::test]
async fn forged_and_expired_certificates_are_refused_in_the_handshake_and_recorded() {
    let plane = Secure::start().await;
    let machine = plane.join().await;
    let named = NamedCertificate::parse(&machine.certificate).unwrap().identity;
    let forged = forged_certificate(named);
    let channel = plane.channel(Some(forged)).await;
    let key = BootKey::generate().unwrap();
    let status = subscribe(channel, hello(machine.id, 1, &key)).await.err().unwrap();
    assert_eq!(status.code(), Code::Unknown, "the connection is gone: {status}");
    let entry = plane.refused("fleet/Connect").await;
    assert!(entry.detail.contains("invalid peer certificate") && entry.peer.starts_with("127.0.0.1:"), "{entry:?}");

    let channel = plane.channel(Some(machine.identity())).await;
    let (_open, stream) = subscribe(channel.clone(), hello(machine.id, 1, &key)).await.unwrap();
    plane.clock.advance(DAY + Duration::from_secs(1));
    let status = ending(stream).await;
    assert_eq!(status.code(), Code::Unauthenticated, "an open stream ends with its certificate: {status}");
    let status = subscribe(channel, hello(machine.id, 1, &key)).await.err().unwrap();
    assert_eq!(status.code(), Code::Unauthenticated, "so does a connection: {status}");
    assert!(plane.refused("fleet/Subscribe").await.detail.contains("has expired"));
    let channel = plane.channel(Some(machine.identity())).await;
    assert!(subscribe(channel, hello(machine.id, 1, &key)).await.is_err());
    let expired = async {
        while !plane.refused("fleet/Connect").await.detail.to_lowercase().contains("expired") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, expired).await.unwrap();

    let narrow = plane.token_for(0, &["openai"]).await;
    assert!(plane.try_join(&narrow, Some(machine.id)).await.is_err());
    assert!(plane.refused("nodes/Join").await.detail.contains("serves other providers"));
    let token = plane.token(0).await;
    let again = plane.try_join(&token, Some(machine.id)).await.unwrap();
    assert_eq!(again.id, machine.id, "the node whose certificate has expired goes on under its id");
    plane.stop().await;
}

#[tokio::test]
async fn every_certificate_that_is_refused_in_the_handshake_is_counted_also_when_there_is_no_time_to_record_it() {
    const FLOOD: usize = 80;
    let plane = Secure::start().await;
    let machine = plane.join().await;
    // Nothing can be recorded for now.
    let mut database = stores::connect(plane.directory.path()).await;
    stores::keep_all_others_from_writing(&mut database).await;
    let key = BootKey::generate().unwrap();
    for _ in 0..FLOOD {
        let named = NamedCertificate::parse(&machine.certificate).unwrap().identity;
        let channel = plane.channel(Some(forged_certificate(named))).await;
        assert!(subscribe(channel, hello(machine.id, 1, &key)).await.is_err());
    }
    let counted = format!(r#"keyforge_nodes_refused_total{{keyforge_reason="handshake"}} {FLOOD}"#);
    let counting = async {
        while !plane.telemetry.prometheus_text().contains(&counted) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let is_counted = tokio::time::timeout(PATIENCE, counting).await;
    is_counted.unwrap_or_else(|_| panic!("{counted} is not in {}", plane.telemetry.prometheus_text()));
    drop(database);
    plane.stop().await;
}

#[tokio::test]
async fn a_node_renews_over_its_connection_for_a_key_of_its_own_choice() {
    let plane = Secure::start().await;
    let machine = plane.join().await;
    plane.clock.advance(DAY * 2 / 3);
    let key = KeyPair::generate().unwrap();
    let mut nodes = NodeServiceClient::new(plane.channel(Some(machine.identity())).await);
    let request = fleet::RenewCertificateRequest { signing_request: signing_request(&key) };
    let certificate = nodes.renew_certificate(request).await.unwrap().into_inner().certificate;
    let renewed = Machine { id: machine.id, certificate: certificate.into(), key };
    let named = NamedCertificate::parse(&renewed.certificate).unwrap();
    assert_eq!(named.identity.role, Role::Node(machine.id));
    let entry = plane.entries().await.pop().unwrap();
    assert_eq!((entry.method.as_str(), entry.target), ("nodes/RenewCertificate", machine.id.to_string()));
    assert!(entry.detail.contains(r#""instead_of":""#), "{}", entry.detail);
    plane.clock.advance(DAY * 2 / 3);
    let boot = BootKey::generate().unwrap();
    let old = plane.channel(Some(machine.identity())).await;
    assert!(subscribe(old, hello(machine.id, 1, &boot)).await.is_err(), "the old one has expired");
    let new = plane.channel(Some(renewed.identity())).await;
    let (_open, mut stream) = subscribe(new, hello(machine.id, 1, &boot)).await.unwrap();
    assert!(stream.message().await.unwrap().is_some());
    let garbage = fleet::RenewCertificateRequest { signing_request: vec![1; 9_000] };
    let mut nodes = NodeServiceClient::new(plane.channel(Some(renewed.identity())).await);
    assert_eq!(nodes.renew_certificate(garbage).await.unwrap_err().code(), Code::InvalidArgument);
    drop((_open, stream));
    plane.stop().await;
}

#[tokio::test]
async fn of_two_who_hold_one_identity_only_the_one_who_renewed_first_renews_again_and_the_other_is_recorded() {
    let plane = Secure::start().await;
    let machine = plane.join().await;
    let renew = async |identity: ClientIdentity| {
        let key = KeyPair::generate().unwrap();
        let request = fleet::RenewCertificateRequest { signing_request: signing_request(&key) };
        let renewed = NodeServiceClient::new(plane.channel(Some(identity)).await).renew_certificate(request).await?;
        let certificate = renewed.into_inner().certificate.into();
        Ok::<_, Status>(Machine { id: machine.id, certificate, key })
    };
    renew(machine.identity()).await.unwrap();
    let renewed = renew(machine.identity()).await.expect("the first answer may have been lost");
    let (_open, stream) =
        subscribe(plane.channel(Some(renewed.identity())).await, hello(machine.id, 1, &BootKey::generate().unwrap()))
            .await
            .unwrap();
    let status = renew(machine.identity()).await.err().expect("a copy renews nothing");
    assert!(status.code() == Code::PermissionDenied && status.message().contains("was copied"), "{status}");
    let entry = plane.refused("nodes/RenewCertificate").await;
    assert!(entry.target == machine.id.to_string() && entry.detail.contains("holds a copy"), "{entry:?}");
    let again = renew(renewed.identity()).await.unwrap();
    let newest = renew(renewed.identity()).await.expect("nobody has used the newest one yet");
    let status = renew(again.identity()).await.err().expect("somebody had it who has lost the newest");
    assert!(status.message().contains("was copied"), "{status}");
    assert!(renew(newest.identity()).await.is_ok());
    drop((_open, stream));
    plane.stop().await;
}
