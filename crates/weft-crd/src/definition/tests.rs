//! What a definition may be.

use super::*;
use serde_json::json;

fn with(schema: Value) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
            "conversion": {"strategy": "None"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": schema}}]},
        "status": {"storedVersions": ["v1"]}})
}

fn spec_of(spec: Value) -> Value {
    with(json!({"type": "object", "properties": {"spec": spec}}))
}

fn told(definition: &Value, old: Option<&Value>) -> Vec<String> {
    validate(definition, old).iter().map(ToString::to_string).collect()
}

#[test]
fn a_sound_definition_is_accepted() {
    assert_eq!(told(&spec_of(json!({"type": "object"})), None), [""; 0]);
}

#[test]
fn schemas_are_structural() {
    const AT: &str = "spec.validation.openAPIV3Schema.properties[spec]";
    for (schema, expected) in [
        (
            json!({}),
            format!("{AT}.type: Required value: must not be empty for specified object fields"),
        ),
        (json!({"type": "array"}), format!("{AT}.items: Required value: must be specified")),
        (
            json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "string"}}),
            format!(
                "{AT}.additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive"
            ),
        ),
        (
            json!({"type": "object", "anyOf": [{"type": "string"}]}),
            format!("{AT}.anyOf[0].type: Forbidden: must be empty to be structural"),
        ),
        (json!({"type": "string", "pattern": "("}), format!("{AT}.pattern: Invalid value")),
        (
            json!({"type": "object", "x-kubernetes-embedded-resource": true}),
            format!(
                "{AT}.properties: Required value: must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields"
            ),
        ),
        (
            json!({"type": "strange"}),
            format!(
                "{AT}.type: Unsupported value: \"strange\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\""
            ),
        ),
        (
            json!({"type": "array", "uniqueItems": true, "items": {"type": "string"}}),
            format!(
                "{AT}.uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
            ),
        ),
        (
            json!({"type": "object", "$ref": "#/x"}),
            format!("{AT}.$ref: Forbidden: $ref is not supported"),
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object"}}),
            format!(
                "{AT}.x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map"
            ),
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}}}}),
            format!(
                "{AT}.items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"
            ),
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object"}}),
            format!(
                "{AT}.items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a list with x-kubernetes-list-type=set"
            ),
        ),
        (
            json!({"type": "string", "default": 5}),
            format!(
                "{AT}.default: Invalid value: \"integer\":  in body must be of type string: \"integer\""
            ),
        ),
        (
            json!({"type": "object", "default": {"x": 1}}),
            format!("{AT}.default: Invalid value: {{\"x\":1}}: must not have unknown fields"),
        ),
        (
            json!({"type": "object", "x-kubernetes-validations": [{"rule": " "}]}),
            format!("{AT}.x-kubernetes-validations[0].rule: Required value: rule is not specified"),
        ),
        (
            json!({"type": "object", "x-kubernetes-validations": [{"rule": "true", "reason": "Why"}]}),
            format!(
                "{AT}.x-kubernetes-validations[0].reason: Unsupported value: \"Why\": supported values: \"FieldValueDuplicate\", \"FieldValueForbidden\", \"FieldValueInvalid\", \"FieldValueRequired\""
            ),
        ),
        (
            json!({"type": "object", "x-kubernetes-validations": [{"rule": "true", "fieldPath": ".no"}]}),
            format!(
                "{AT}.x-kubernetes-validations[0].fieldPath: Invalid value: \".no\": must be a valid path"
            ),
        ),
    ] {
        let found = told(&spec_of(schema.clone()), None);
        assert!(
            found.iter().any(|f| f.starts_with(&expected)),
            "{schema}: {found:?} lacks {expected}"
        );
    }
    let root =
        told(&with(json!({"type": "object", "x-kubernetes-preserve-unknown-fields": false})), None);
    assert!(root[0].ends_with("Invalid value: false: must be true or undefined"), "{root:?}");
    let metadata = told(
        &with(json!({"type": "object", "properties": {"metadata": {"type": "object",
        "properties": {"labels": {"type": "object"}}}}})),
        None,
    );
    assert!(metadata[0].contains("must not specify anything other than name and generateName"));
}

#[test]
fn names_versions_and_columns_are_checked() {
    let sound = spec_of(json!({"type": "object"}));
    let change = |pointer: &str, value: Value| {
        let mut changed = sound.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        told(&changed, None)
    };
    assert_eq!(
        change("/metadata/name", json!("x")),
        [r#"metadata.name: Invalid value: "x": must be spec.names.plural+"."+spec.group"#]
    );
    assert_eq!(
        change("/spec/scope", json!("Galaxy")),
        [r#"spec.scope: Unsupported value: "Galaxy": supported values: "Cluster", "Namespaced""#]
    );
    assert!(change("/spec/group", json!("example"))[1].contains("at least one dot"));
    assert_eq!(
        change("/spec/names/listKind", json!("Widget")),
        [r#"spec.names.listKind: Invalid value: "Widget": kind and listKind may not be the same"#]
    );
    let none = change("/spec/versions/0/storage", json!(false));
    assert!(
        none[0].ends_with("must have exactly one version marked as storage version"),
        "{none:?}"
    );
    let mut columns = sound.clone();
    columns["spec"]["versions"][0]["additionalPrinterColumns"] =
        json!([{"name": "A", "type": "text", "jsonPath": "spec"}]);
    assert_eq!(
        told(&columns, None),
        [
            r#"spec.additionalPrinterColumns[0].type: Invalid value: "text": must be one of boolean,date,integer,number,string"#,
            r#"spec.additionalPrinterColumns[0].JSONPath: Invalid value: "spec": must be a simple json path starting with ."#
        ]
    );
    let mut scale = sound.clone();
    scale["spec"]["versions"][0]["subresources"] =
        json!({"scale": {"specReplicasPath": ".status.x"}});
    assert_eq!(
        told(&scale, None),
        [
            r#"spec.subresources.scale.specReplicasPath: Invalid value: ".status.x": should be a json path under .spec"#,
            "spec.subresources.scale.statusReplicasPath: Required value"
        ]
    );
    let mut selectable = sound.clone();
    selectable["spec"]["versions"][0]["selectableFields"] = json!([{"jsonPath": ".spec.no"}]);
    assert_eq!(
        told(&selectable, None),
        [
            r#"spec.selectableFields[0].jsonPath: Invalid value: ".spec.no": is an invalid path: does not refer to a valid field"#
        ]
    );
    let mut approved = sound.clone();
    approved["metadata"]["name"] = "widgets.x.k8s.io".into();
    approved["spec"]["group"] = "x.k8s.io".into();
    assert!(told(&approved, None)[0].contains("protected groups must have approval annotation"));
    approved["metadata"]["annotations"] = json!({APPROVED: "https://example.com/1"});
    assert_eq!(told(&approved, None), [""; 0]);
}

#[test]
fn updates_keep_what_objects_rely_on() {
    let old = spec_of(json!({"type": "object"}));
    let mut new = old.clone();
    new["spec"]["versions"] = json!([{"name": "v2", "served": true, "storage": true,
        "schema": {"openAPIV3Schema": {"type": "object"}}}]);
    new["status"]["storedVersions"] = json!(["v1", "v2"]);
    let found = told(&new, Some(&old));
    assert!(found[0].starts_with("status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions; v1 was previously"), "{found:?}");
    let mut established = old.clone();
    set_condition(
        &mut established,
        ["Established", "True", "InitialNamesAccepted", "m"],
        "2024-01-01T00:00:00Z",
    );
    let mut scope = established.clone();
    scope["spec"]["scope"] = "Cluster".into();
    assert_eq!(
        told(&scope, Some(&established)),
        [r#"spec.scope: Invalid value: "Cluster": field is immutable"#]
    );
}

#[test]
fn names_are_given_once() {
    let mut first = spec_of(json!({"type": "object"}));
    first["spec"]["names"]["shortNames"] = json!(["w"]);
    let given = accept_names(&first, &TakenNames::default());
    assert_eq!((&given.accepted, &given.conflict), (&first["spec"]["names"], &None));
    first["status"]["acceptedNames"] = given.accepted;
    let mut taken = TakenNames::default();
    taken.add(&first);
    let mut second = first.clone();
    second["status"] = json!({});
    second["spec"]["names"] = json!({"plural": "gadgets", "singular": "gadget", "kind": "Widget",
        "listKind": "GadgetList", "shortNames": ["w", "g"]});
    let given = accept_names(&second, &taken);
    assert_eq!(given.conflict, Some(("KindConflict", "\"Widget\" is already in use".to_owned())));
    assert_eq!(given.accepted["plural"], "gadgets");
    assert!(given.accepted.get("kind").is_none() && given.accepted.get("shortNames").is_none());
}
