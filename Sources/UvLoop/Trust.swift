// Whom we trust: the authorities of ca.pem, without those certificates that crl.pem names.
//
// ca.pem has one authority, or several while a fleet changes from one to another. If there is a
// crl.pem, it has exactly one list of each of them: OpenSSL then refuses what it finds no list for.

import COpenSSL

struct Trust {
    let authorities: [Certificate]
    /// In the order of `authorities`; empty if there is no crl.pem.
    let lists: [RevocationList]

    /// - Parameter listPath: nil if there is no crl.pem.
    static func read(authorityPath: String, listPath: String?) throws(TLSError) -> Trust {
        let authorities = try Certificate.readAll(authorityPath)
        guard authorities.allSatisfy(\.isAuthority) else {
            throw .notAnAuthority(path: authorityPath)
        }
        guard let listPath else { return Trust(authorities: authorities, lists: []) }
        let found = try RevocationList.readAll(listPath)
        var lists: [RevocationList] = []
        for authority in authorities {
            let own = found.filter { $0.isSigned(by: authority) }
            guard own.count == 1 else {
                throw .fileInvalid(
                    path: listPath,
                    reason: "it has \(own.isEmpty ? "no list" : "\(own.count) lists") signed by "
                        + "the authority \(authority.subject) of \(authorityPath): copy the "
                        + "crl.pem that is beside that ca.pem")
            }
            lists += own
        }
        guard found.count == lists.count else {
            throw .fileInvalid(
                path: listPath,
                reason: "a list in it is not signed by an authority of \(authorityPath)")
        }
        return Trust(authorities: authorities, lists: lists)
    }

    /// - Parameter context: an SSL_CTX, which takes references of its own.
    /// - Returns: false when OpenSSL is out of memory.
    func install(in context: OpaquePointer) -> Bool {
        authorities.allSatisfy { fermata_trust(context, $0.raw) == 1 }
            && lists.allSatisfy { fermata_distrust(context, $0.raw) == 1 }
    }
}
