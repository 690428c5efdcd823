import Foundation
public import Notices

extension BulletinTemplates {
    /// Reads an operator's templates.
    ///
    /// - Parameter directory: its files that end in ``fileSuffix``; those below it are not looked at.
    /// - Throws: what is wrong with the directory or a template, with file and line.
    public init(directory: String) throws(TemplateError) {
        func unreadable(_ path: String, _ error: any Error) -> TemplateError {
            let reason = error as NSError
            let cause = reason.userInfo[NSUnderlyingErrorKey] as? NSError ?? reason
            return TemplateError(
                path: path, line: nil, problem: .unreadable(cause.localizedDescription))
        }
        let names: [String]
        do {
            names = try FileManager.default.contentsOfDirectory(atPath: directory)
        } catch {
            throw unreadable(directory, error)
        }
        var sources: [Source] = []
        for name in names.sorted() where name.hasSuffix(Self.fileSuffix) {
            let path = "\(directory)/\(name)"
            do {
                let text = try String(contentsOfFile: path, encoding: .utf8)
                let stem = String(name.dropLast(Self.fileSuffix.count))
                sources.append(Source(path: path, name: stem, text: text))
            } catch {
                throw unreadable(path, error)
            }
        }
        try self.init(sources, directory: directory)
    }
}
