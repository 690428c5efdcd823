public import Presentation

/// What a guest can read about itself, in the layout that clients of the metadata service know. Only
/// what is known is said; text that does not apply is empty, as it is there.
public enum InstanceDocument {
    /// Ascending. The fields here are the same in all of them.
    public static let versions = [
        "2017-04-02", "2017-08-01", "2017-12-01", "2018-02-01", "2018-04-02", "2018-10-01",
        "2019-02-01", "2019-03-11", "2019-04-30", "2019-06-01", "2019-06-04", "2019-08-01",
        "2019-08-15", "2019-11-01", "2020-06-01", "2020-07-15", "2020-09-01", "2020-10-01",
        "2020-12-01", "2021-01-01", "2021-02-01", "2021-03-01", "2021-05-01", "2021-10-01",
        "2021-11-01", "2021-11-15", "2021-12-13", "2023-07-01",
    ]

    /// - Parameter cluster: name of the cluster; the nearest thing to a subscription.
    public static func json(_ guest: BoardGuest, cluster: String) -> JSON {
        let domain = guest.updateDomain.map { "\($0.number)" } ?? ""
        return [
            "compute": [
                "azEnvironment": "Fermata",
                "location": .string(cluster),
                "name": .string(guest.id.rawValue),
                "offer": "",
                "osType": "Linux",
                "placementGroupId": .string(guest.set?.rawValue ?? ""),
                "platformFaultDomain": "0",
                "platformUpdateDomain": .string(domain),
                "provider": "Fermata",
                "publisher": "",
                "resourceGroupName": .string(guest.set?.rawValue ?? cluster),
                "resourceId": .string("/fermata/\(cluster)/guests/\(guest.id)"),
                "sku": "",
                "subscriptionId": .string(cluster),
                "tags": "",
                "tagsList": .array([]),
                "version": "",
                "vmId": .string(vmID(guest, cluster: cluster)),
                "vmScaleSetName": "",
                "vmSize": .string("\(guest.vcpuCount)x\(guest.memoryBytes >> 20)MiB"),
                "zone": "",
            ],
            "network": ["interface": .array([])],
        ]
    }

    /// - Parameter path: below `/metadata/instance`, in lower case.
    /// - Throws: 404, and 400 if the format does not fit.
    public static func answer(
        _ guest: BoardGuest, cluster: String, path: [String], asText: Bool
    ) throws(GuestAnswer) -> GuestAnswer {
        var value = json(guest, cluster: cluster)
        for name in path {
            guard case .object(let members) = value,
                let member = members.first(where: { $0.key.lowercased() == name })
            else { throw .error(404, "Not found.") }
            value = member.value
        }
        guard asText else { return .json(value) }
        guard case .string(let text) = value else {
            throw .error(400, "Bad request. Only a leaf can be had as text.")
        }
        return GuestAnswer(
            status: 200, fields: [HTTPField("Content-Type", "text/plain; charset=utf-8")],
            body: Array(text.utf8))
    }

    /// The same for as long as the guest has its name.
    private static func vmID(_ guest: BoardGuest, cluster: String) -> String {
        uuidShaped(cluster + "/" + guest.id.rawValue)
    }
}
