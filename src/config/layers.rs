//! Merges the layers of the configuration, file and environment, into one tree that keeps all places.
//! The defaults are the lowest layer: `resolve` knows them.

use figment::value::{Dict, Empty, Map, Num, Tag, Value as Merged};
use figment::{Error, Figment, Metadata, Profile, Provider};

use crate::spec::decode::tree::{Entry, Node, Spot, Value};

use super::environment::Environment;

/// The static sections of the file, as a layer.
struct FileLayer<'a>(&'a Node);

impl Provider for FileLayer<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named("file")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        Ok(Map::from([(Profile::Default, dict(self.0.entries()))]))
    }
}

fn dict(entries: &[Entry]) -> Dict {
    entries.iter().map(|entry| (entry.key.clone(), value(&entry.node))).collect()
}

fn value(node: &Node) -> Merged {
    let tag = Tag::Default;
    match &node.value {
        Value::Null => Merged::Empty(tag, Empty::None),
        Value::Bool(value) => Merged::Bool(tag, *value),
        Value::Integer(number) => Merged::Num(tag, Num::I128(*number)),
        Value::Float(number) => Merged::Num(tag, Num::F64(*number)),
        Value::Text(text) | Value::Variable(text) => Merged::String(tag, text.clone()),
        Value::List(elements) => Merged::Array(tag, elements.iter().map(value).collect()),
        Value::Table(entries) => Merged::Dict(tag, dict(entries)),
    }
}

/// The file's tree with the environment's values over it, each with the place it comes from.
///
/// # Errors
/// None that a file or a variable could cause; figment's own.
pub(super) fn merge(file: &Node, environment: &Environment) -> Result<Node, String> {
    let figment = Figment::new().merge(FileLayer(file)).merge(environment);
    let merged = figment.data().map_err(|error| error.to_string())?.remove(&Profile::Default).unwrap_or_default();
    let from_environment =
        |tag: Tag| figment.get_metadata(tag).is_some_and(|metadata| metadata.name == Environment::LAYER);
    let mut path = Vec::new();
    let value = places(merged, Some(file), &mut path, environment, &from_environment);
    Ok(Node { spot: file.spot.clone(), value })
}

fn places(
    merged: Dict,
    file: Option<&Node>,
    path: &mut Vec<String>,
    environment: &Environment,
    from_environment: &dyn Fn(Tag) -> bool,
) -> Value {
    let mut entries = Vec::new();
    for (key, value) in merged {
        path.push(key.clone());
        let written = file.and_then(|file| file.entries().iter().find(|entry| entry.key == key));
        let variable = || environment.variable(path).map_or(Spot::START, |name| Spot::Variable(name.clone()));
        let spot = written.map_or_else(variable, |entry| entry.spot.clone());
        let node = match value {
            Merged::String(tag, text) if from_environment(tag) => {
                Node { spot: variable(), value: Value::Variable(text) }
            }
            Merged::Dict(_, dict) => {
                let below = written.map(|entry| &entry.node);
                Node { spot: spot.clone(), value: places(dict, below, path, environment, from_environment) }
            }
            _ => written.map_or_else(|| Node { spot: variable(), value: Value::Null }, |entry| entry.node.clone()),
        };
        entries.push(Entry { key, spot, node });
        path.pop();
    }
    Value::Table(entries)
}
