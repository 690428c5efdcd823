import QMP

/// What a guest acknowledges: `{"StartRequests": [{"EventId": "…"}]}`, whatever type the client says
/// that it is.
public enum StartRequests {
    /// - Returns: the ids, in the order given, each once.
    /// - Throws: a 400 that says what is wrong.
    public static func parse(_ body: [UInt8]) throws(GuestAnswer) -> [String] {
        let json: JSON
        do {
            json = try JSON.parse(
                body, byteCountMax: HTTPLimits.bodyByteCountMax,
                depthMax: HTTPLimits.jsonDepthMax)
        } catch {
            throw .error(400, "The body is no JSON that can be taken: \(error)")
        }
        // Members that we do not know may mean something to others.
        guard let list = json["StartRequests"]?.array else {
            throw .error(400, "The body has no array StartRequests.")
        }
        guard !list.isEmpty, list.count <= HTTPLimits.startRequestsMax else {
            throw .error(
                400, "StartRequests has to have 1 to \(HTTPLimits.startRequestsMax) entries.")
        }
        var ids: [String] = []
        for entry in list {
            guard let id = entry["EventId"]?.string, (1...128).contains(id.utf8.count) else {
                throw .error(400, "An entry of StartRequests has no EventId.")
            }
            if !ids.contains(id) { ids.append(id) }
        }
        return ids
    }
}
