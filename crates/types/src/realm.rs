//! The documents that a request may see: those of a tenant, if there are tenants, and of a namespace, if one is
//! named. A document carries both in its metadata, under keys that clients can't write.

use std::sync::Arc;

use super::payload::{NAMESPACE_KEY, Payload, TENANT_INDEX_KEY, TENANT_KEY};

/// A tenant, as its documents' metadata names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantMark {
    /// Its name.
    pub id: String,
    /// Its number, in decimal digits.
    pub index: String,
}

/// A subset of the documents, by tenant and namespace. The default is all documents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Realm {
    /// Only documents of this tenant; `None` for all tenants.
    pub tenant: Option<Arc<TenantMark>>,
    /// Only documents of this namespace; empty for any.
    pub namespace: Box<str>,
}

impl From<&str> for Realm {
    /// A namespace, without tenants.
    fn from(namespace: &str) -> Self {
        Self { tenant: None, namespace: namespace.into() }
    }
}

impl Realm {
    /// True if a document with this metadata is in the realm.
    #[must_use]
    pub fn admits(&self, payload: &Payload) -> bool {
        let is_of_tenant = match &self.tenant {
            None => true,
            Some(mark) => payload.get(TENANT_INDEX_KEY) == Some(&mark.index),
        };
        is_of_tenant && (self.namespace.is_empty() || payload.namespace() == &*self.namespace)
    }

    /// The reserved metadata pairs of a document in this realm.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let namespace = (!self.namespace.is_empty()).then_some((NAMESPACE_KEY, &*self.namespace));
        let tenant = self.tenant.iter().flat_map(|mark| {
            [(TENANT_KEY, mark.id.as_str()), (TENANT_INDEX_KEY, mark.index.as_str())]
        });
        namespace.into_iter().chain(tenant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn realm(tenant: Option<&str>, namespace: &str) -> Realm {
        let mark = |index: &str| TenantMark { id: format!("t{index}"), index: index.into() };
        Realm { tenant: tenant.map(|index| Arc::new(mark(index))), namespace: namespace.into() }
    }

    #[test]
    fn a_document_is_in_the_realm_it_was_stored_in_and_in_wider_ones() {
        let realms = [
            realm(None, ""),
            realm(None, "a"),
            realm(Some("1"), ""),
            realm(Some("1"), "a"),
            realm(Some("2"), "a"),
        ];
        let admitted = |stored: &Realm| -> Vec<bool> {
            let payload = Payload::within([("k", "v"), (TENANT_INDEX_KEY, "2")], stored).unwrap();
            assert_eq!(payload.user_pairs().collect::<Vec<_>>(), [("k", "v")]);
            realms.iter().map(|realm| realm.admits(&payload)).collect()
        };
        // A document without a tenant belongs to no tenant, whatever pairs a client has written into it.
        assert_eq!(admitted(&realms[0]), [true, false, false, false, false]);
        assert_eq!(admitted(&realms[1]), [true, true, false, false, false]);
        assert_eq!(admitted(&realms[2]), [true, false, true, false, false]);
        assert_eq!(admitted(&realms[3]), [true, true, true, true, false]);
        assert_eq!(admitted(&realms[4]), [true, true, false, false, true]);
    }

    #[test]
    fn an_update_leaves_a_document_in_its_realm() {
        let before = Payload::within([("k", "v")], &realm(Some("1"), "a")).unwrap();
        let update = Payload::within([("l", "w")], &realm(Some("2"), "b")).unwrap();
        for after in [before.merged(&update).unwrap(), before.replaced(&update)] {
            assert!(realm(Some("1"), "a").admits(&after));
            assert_eq!(after.get(TENANT_KEY), Some("t1"));
            assert_eq!(after.get("l"), Some("w"));
        }
    }
}
