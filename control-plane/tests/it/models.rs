//! The model catalogue over gRPC.

use keyforge_proto::admin::v1 as admin;
use tonic::Code;

use crate::plane::Plane;

fn model(name: &str) -> admin::Model {
    admin::Model {
        name: name.to_owned(),
        provider: "sandbox".to_owned(),
        upstream_name: name.to_owned(),
        operation: admin::Operation::Chat.into(),
        context_tokens: Some(1_000),
        max_output_tokens: Some(100),
        prices: Some(admin::Prices { standard: Some(admin::Rates::default()), ..Default::default() }),
        source: "the operator".to_owned(),
        as_of: "2026-11-22".to_owned(),
    }
}

async fn all(plane: &Plane) -> Vec<admin::Model> {
    let (mut models, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = admin::ListModelsRequest { page_size: 50, page_token };
        let page = plane.models().list_models(request).await.unwrap().into_inner();
        models.extend(page.models);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return models;
        }
    }
}

#[tokio::test]
async fn built_in_models_are_there_and_what_operators_change_stays_changed() {
    let plane = Plane::start().await;
    let built_in = all(&plane).await;
    assert!(built_in.len() > 150 && built_in.is_sorted_by(|a, b| a.name < b.name), "{}", built_in.len());
    let mut dearer = built_in[0].clone();
    dearer.source = "our own contract".to_owned();
    plane.models().set_model(admin::SetModelRequest { model: Some(dearer.clone()) }).await.unwrap();
    let removed = built_in[1].name.clone();
    plane.models().remove_model(admin::RemoveModelRequest { name: removed.clone() }).await.unwrap();
    plane.models().set_model(admin::SetModelRequest { model: Some(model("local")) }).await.unwrap();

    let plane = Plane::start_again(plane.stop().await).await;
    let models = all(&plane).await;
    assert_eq!(models.len(), built_in.len());
    assert!(models.contains(&dearer) && models.contains(&model("local")));
    assert!(models.iter().all(|model| model.name != removed));
    let again = plane.models().remove_model(admin::RemoveModelRequest { name: removed }).await.unwrap_err();
    assert_eq!(again.code(), Code::NotFound);
    plane.stop().await;
}

#[tokio::test]
async fn every_wrong_field_of_a_model_is_named() {
    let plane = Plane::start().await;
    let no_standard = Some(admin::Prices::default());
    let cases = [
        (None, "model: missing"),
        (Some(admin::Model { name: "a b".to_owned(), ..model("x") }), "model.name: "),
        (Some(admin::Model { operation: 0, ..model("x") }), "model.operation: unspecified"),
        (Some(admin::Model { prices: no_standard, ..model("x") }), "model.prices.standard: missing"),
        (Some(admin::Model { as_of: "today".to_owned(), ..model("x") }), "model.as_of: "),
        (Some(admin::Model { context_tokens: Some(0), ..model("x") }), "model.context_tokens: "),
        (Some(admin::Model { source: "s".repeat(501), ..model("x") }), "model.source: at most 500"),
    ];
    for (model, expected) in cases {
        let status = plane.models().set_model(admin::SetModelRequest { model }).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(expected), "{expected} in {}", status.message());
    }
    plane.stop().await;
}
