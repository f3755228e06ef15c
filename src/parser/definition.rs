//! The statements that define features.

use std::collections::BTreeMap;

use super::RelationName;
use crate::registry::{Feature, KeyColumn, Ttl};

/// `CREATE ENTITY name KEY (column type, …)`
#[derive(Clone, Debug, PartialEq)]
pub struct CreateEntity {
    /// Its name.
    pub name: RelationName,
    /// Its join key.
    pub keys: Vec<KeyColumn>,
    /// What it is, in words.
    pub comment: Option<String>,
    /// Leave an entity of that name as it is.
    pub if_not_exists: bool,
}

/// `CREATE FEATURE VIEW name (features) ENTITY … EVENT TIME … TTL … COMMENT … WITH (…)`
#[derive(Clone, Debug, PartialEq)]
pub struct CreateFeatureView {
    /// Its name.
    pub name: RelationName,
    /// Its features.
    pub features: Vec<Feature>,
    /// The entities it describes.
    pub entities: Vec<String>,
    /// The name of its event time column.
    pub event_time: String,
    /// How long a row lives.
    pub ttl: Option<Ttl>,
    /// Whether the online store keeps its rows.
    pub online: bool,
    /// What it is, in words.
    pub comment: Option<String>,
    /// Other options.
    pub options: BTreeMap<String, String>,
    /// Leave a relation of that name as it is.
    pub if_not_exists: bool,
}
