//! Names of the relations: catalog `tagmill`, schemas `public` and `system`, and those of a dialect. Read-only, one per
//! statement.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::common::Result;

use crate::dialect::Dialect;
use crate::hosted::HostedRelation;
use crate::relations::Scope;
use crate::relations::latest::Latest;
use crate::relations::rollups::{ROLLUPS, rollup};
use crate::relations::samples::Samples;
use crate::relations::system::{System, SystemRelation};
use crate::relations::tags::Tags;

/// The one catalog.
pub(crate) const CATALOG: &str = "tagmill";
/// The schema that needs no naming.
pub(crate) const PUBLIC: &str = "public";
/// The schema of what the database says of itself.
const SYSTEM: &str = "system";
/// Every relation, as a statement would name it.
pub(crate) const RELATIONS: [&str; 13] = [
    "latest",
    "rollup_15m",
    "rollup_1d",
    "rollup_1h",
    "rollup_1m",
    "samples",
    "system.damage",
    "system.queries",
    "system.retention",
    "system.segments",
    "system.settings",
    "system.tiers",
    "tags",
];

/// The catalogs of one statement. A reader who may not know of every tag finds of the schema `system` the settings and
/// its own statements alone.
pub(crate) fn catalogs(scope: &Scope, dialect: Option<&Dialect>) -> Arc<dyn CatalogProviderList> {
    let public: [(&str, Arc<dyn TableProvider>); 3] = [
        ("samples", Arc::new(Samples::new(scope.clone()))),
        ("tags", Arc::new(Tags::new(scope.clone()))),
        ("latest", Arc::new(Latest::new(scope.clone()))),
    ];
    let system =
        SystemRelation::ALL.into_iter().filter(|relation| scope.is_whole || relation.is_for_all());
    let system = system.map(|relation| {
        let table: Arc<dyn TableProvider> = Arc::new(System::new(relation, scope.clone()));
        (relation.name(), table)
    });
    let hosted = scope.hosted.iter().filter(|relation| {
        scope.is_whole && (scope.asker.is_operator || !relation.for_operators())
    });
    let system = system.chain(hosted.map(|relation| {
        let table: Arc<dyn TableProvider> = Arc::new(HostedRelation(Arc::clone(relation)));
        (relation.name(), table)
    }));
    let mut schemas: Schemas = BTreeMap::new();
    schemas.insert(PUBLIC.to_owned(), Arc::new(Relations::new(public, Some(scope.clone()))));
    schemas.insert(SYSTEM.to_owned(), Arc::new(Relations::new(system, None)));
    schemas.extend(dialect.into_iter().flat_map(Dialect::schemas));
    Arc::new(Catalogs(Arc::new(Catalog(schemas))))
}

#[derive(Debug)]
struct Catalogs(Arc<Catalog>);

impl CatalogProviderList for Catalogs {
    fn register_catalog(
        &self,
        _: String,
        _: Arc<dyn CatalogProvider>,
    ) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        vec![CATALOG.to_owned()]
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        (name == CATALOG).then(|| Arc::clone(&self.0) as Arc<dyn CatalogProvider>)
    }
}

/// Schemas by their names.
pub(crate) type Schemas = BTreeMap<String, Arc<dyn SchemaProvider>>;

#[derive(Debug)]
struct Catalog(Schemas);

impl CatalogProvider for Catalog {
    fn schema_names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        self.0.get(name).cloned()
    }
}

#[derive(Debug)]
struct Relations {
    tables: BTreeMap<&'static str, Arc<dyn TableProvider>>,
    /// Of which rollups are here too: plans, made when they are asked for.
    rollups: Option<Scope>,
}

impl Relations {
    fn new(
        tables: impl IntoIterator<Item = (&'static str, Arc<dyn TableProvider>)>,
        rollups: Option<Scope>,
    ) -> Self {
        Self { tables: tables.into_iter().collect(), rollups }
    }

    fn rollup_names(&self) -> impl Iterator<Item = &'static str> {
        let names = ROLLUPS.iter().map(|(name, _)| *name);
        names.filter(|_| self.rollups.is_some())
    }
}

#[async_trait]
impl SchemaProvider for Relations {
    fn table_names(&self) -> Vec<String> {
        self.tables.keys().copied().chain(self.rollup_names()).map(str::to_owned).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if let Some(table) = self.tables.get(name) {
            return Ok(Some(Arc::clone(table)));
        }
        self.rollups.as_ref().map_or(Ok(None), |scope| rollup(name, scope))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.tables.contains_key(name) || self.rollup_names().any(|known| known == name)
    }
}
