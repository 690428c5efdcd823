/// Something under way whose completion has not been called yet.
public final class Cancellable {
    private var body: (() -> Void)?

    init(_ body: @escaping () -> Void) { self.body = body }

    /// The completion then gets `ECANCELED`, unless it has been called already.
    public func cancel() {
        let body = body
        self.body = nil
        body?()
    }
}
